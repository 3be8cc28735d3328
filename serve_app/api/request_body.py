"""A request's body: read within bounds of size, time and memory, and parsed within bounds of how
many values it has, and how large an integer.
"""

import asyncio
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pydantic_core
from starlette.types import Receive, Scope

from serve_app.api.request_context import header
from serve_app.errors import ClientDisconnectedError, RequestError, invalid

_KNOWN_CODINGS = frozenset({b"gzip", b"x-gzip", b"deflate", b"br", b"zstd", b"compress"})
# Smaller ones are never refused for the memory of others; Serve bounds how many there are.
SMALL_BYTES = 64 * 1024
# Of all larger ones that are being read.
MEMORY_BYTES = 256 * 1024 * 1024
# Of prompt estimates: about the last fifty requests say how many bytes a token takes; before the
# first, a usual vocabulary does.
NEWEST_KEPT = 0.98
BYTES_PER_TOKEN = 4.0
DERIVED_TOKENS = 512.0
# What a parser, the tier's rules and vLLM's schemas do for each value, they do on the event loop.
# So many take them less than 100 ms together; a batch of 32 prompts of 4,096 token ids has fewer.
MAX_VALUES = 150_000
# A key costs as much as ten values.
MAX_KEYS = 25_000
# vLLM's processes hand requests to each other as msgpack, which ends at 64 bits.
LEAST_INTEGER, MOST_INTEGER = -(1 << 63), (1 << 63) - 1
# Below it no integer is that large, so that nothing has to be looked through.
_DIGITS_OF_64_BITS = re.compile(rb"[0-9]{19}")


@dataclass(slots=True)
class BodyReader:
    """Reads bodies for one application. `held_bytes` is what unfinished large ones take now."""

    held_bytes: int = 0

    async def read(
        self, scope: Scope, receive: Receive, *, limit_bytes: int, timeout_s: float
    ) -> bytes:
        """The whole body. Raises RequestError 413 above the limit, 408 after the time, 503 where
        too many large ones are being read, 415 where it is compressed, and
        ClientDisconnectedError."""
        _refuse_compressed(scope)
        declared = header(scope, b"content-length")
        if declared is not None and declared.isdigit() and int(declared[:20]) > limit_bytes:
            raise too_large(limit_bytes)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._read(receive, limit_bytes)
        except TimeoutError as error:
            raise RequestError(
                408, f"The body did not arrive within {timeout_s:g} s.", code="request_timeout"
            ) from error

    async def _read(self, receive: Receive, limit_bytes: int) -> bytes:
        # One buffer: of a body in a million pieces a list would be many times as large.
        body = bytearray()
        with self._holding() as hold:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnectedError
                chunk = message.get("body", b"")
                if len(body) + len(chunk) > limit_bytes:
                    raise too_large(limit_bytes)
                body += chunk
                if not message.get("more_body", False):
                    return bytes(body)
                if len(body) > SMALL_BYTES:
                    hold(len(body))

    @contextmanager
    def _holding(self) -> "Iterator[_Hold]":
        hold = _Hold(self)
        try:
            yield hold
        finally:
            self.held_bytes -= hold.size_bytes


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises RequestError 400 where it is none, holds too many values,
    or an integer beyond 64 bits."""
    _refuse_many_values(body)
    try:
        payload = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(payload, dict):
        raise invalid("The body must be a JSON object.", code="invalid_json")
    if _DIGITS_OF_64_BITS.search(body):
        _refuse_large_integers(payload)
    return payload


def as_json(payload: Mapping[str, Any]) -> bytes:
    """The body that the engine gets. Raises RequestError for a number like 1e999, which is read
    as infinity and which the engine would sample with."""
    try:
        return json.dumps(payload, allow_nan=False).encode()
    except ValueError as error:
        infinite = (
            name
            for name, value in payload.items()
            if any(isinstance(part, float) and math.isinf(part) for part in _scalars(value))
        )
        field = next(infinite, None)
        where = "" if field is None else f" in `{field[:64]}`"
        message = f"A number{where} is too large: at most about 1.8e308."
        raise invalid(message, param=field and field[:64], code="invalid_json") from error


@dataclass(slots=True)
class PromptEstimate:
    """How many tokens a prompt has, from the length of its body, until the engine has counted
    them: to tokenize it here would be the engine's work twice, on the event loop. Tokens of prompts
    and bytes of their requests are sums that forget."""

    _tokens: float = DERIVED_TOKENS
    _bytes: float = DERIVED_TOKENS * BYTES_PER_TOKEN

    def tokens(self, body_bytes: int) -> float:
        """Of all prompts of a request."""
        return body_bytes * self._tokens / self._bytes

    def observe(self, *, body_bytes: int, tokens: float) -> None:
        """The engine has counted the prompts of a request."""
        self._tokens = self._tokens * NEWEST_KEPT + tokens
        self._bytes = self._bytes * NEWEST_KEPT + body_bytes


def too_large(limit_bytes: int) -> RequestError:
    """A 413."""
    return RequestError(
        413, f"The body is larger than {limit_bytes} bytes.", code="request_too_large"
    )


@dataclass(slots=True)
class _Hold:
    reader: BodyReader
    size_bytes: int = 0

    def __call__(self, size_bytes: int) -> None:
        """The body has grown to this size. Raises RequestError 503."""
        self.reader.held_bytes += size_bytes - self.size_bytes
        self.size_bytes = size_bytes
        if self.reader.held_bytes > MEMORY_BYTES:
            raise RequestError(
                503,
                "Too many large bodies are arriving at once. Please retry.",
                code="server_busy",
                retry_after_s=5,
            )


def _refuse_compressed(scope: Scope) -> None:
    """A kilobyte may become a gigabyte, and no client of language models compresses unasked."""
    coding = (header(scope, b"content-encoding") or b"").strip().lower()
    if coding in (b"", b"identity"):
        return
    known = coding.decode("latin-1") if coding in _KNOWN_CODINGS else "a compressed form"
    raise RequestError(
        415,
        f"The body comes as {known}, which is not taken here: send it as plain JSON, without the "
        "header Content-Encoding.",
        code="unsupported_content_encoding",
    )


def _scalars(value: object) -> Iterator[object]:
    """All that is no list and no object, at any depth."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        else:
            yield part


def _refuse_many_values(body: bytes) -> None:
    values, keys = _count(body)
    if values <= MAX_VALUES and keys <= MAX_KEYS:
        return
    # Most of it may be the punctuation of a long text: what stands between quotes is left out.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = plain.count(b'"') // 2
    if strings > MAX_VALUES:
        raise _too_complex(f"{strings:,} strings; at most {MAX_VALUES:,}")
    values, keys = _count(b"".join(plain.split(b'"')[::2]))
    if values > MAX_VALUES:
        raise _too_complex(f"{values:,} values; at most {MAX_VALUES:,}")
    if keys > MAX_KEYS:
        raise _too_complex(f"{keys:,} keys; at most {MAX_KEYS:,}")


def _count(body: bytes) -> tuple[int, int]:
    """Values and keys, each counted once too often at most."""
    opened = body.count(b"[") + body.count(b"{")
    return opened + body.count(b","), body.count(b":")


def _too_complex(what: str) -> RequestError:
    return invalid(f"The body has {what} are taken.", code="request_too_complex")


def _refuse_large_integers(payload: Mapping[str, Any]) -> None:
    for field, value in payload.items():
        for part in _scalars(value):
            if isinstance(part, int) and not LEAST_INTEGER <= part <= MOST_INTEGER:
                raise invalid(
                    f"`{field[:64]}` has an integer beyond 64 bits: from -2^63 to 2^63 - 1.",
                    param=field[:64],
                    code="integer_too_large",
                )
