"""Request bodies: each has a size and a time, and all that are being read have a memory."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Receive, Scope

from serve_app.api.messages import ClientGone, header
from serve_app.errors import RequestError

_KNOWN_CODINGS = frozenset({b"gzip", b"x-gzip", b"deflate", b"br", b"zstd", b"compress"})
# Smaller ones are never refused for the memory of others; Serve bounds how many there are.
SMALL_BYTES = 64 * 1024
# Of all larger ones that are being read.
MEMORY_BYTES = 256 * 1024 * 1024


@dataclass(slots=True)
class BodyReader:
    """Reads bodies for one application. `held_bytes` is what unfinished large ones hold now."""

    held_bytes: int = 0

    async def read(
        self, scope: Scope, receive: Receive, *, limit_bytes: int, timeout_s: float
    ) -> bytes:
        """The whole body. Raises RequestError 413 above the limit, 408 after the time, 503 where
        too many large ones are being read, 415 where it is compressed, and ClientGone when the
        client left."""
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
                    raise ClientGone
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


def too_large(limit_bytes: int) -> RequestError:
    """A 413."""
    return RequestError(
        413, f"The body is larger than {limit_bytes} bytes.", code="request_too_large"
    )
