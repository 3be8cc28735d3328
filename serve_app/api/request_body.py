"""A request's body: read within bounds of size, time and memory, parsed within bounds of how many
values it has and how large an integer, and made a `RequestContext` by the tier's rules.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pydantic_core
from starlette.types import Receive, Scope

from serve_app.api.answer_deadline import (
    DEADLINE_FIELD,
    DEADLINE_HEADER,
    AnswerDeadline,
    take_deadline,
)
from serve_app.api.early_refusals import EarlyRefusals
from serve_app.api.field_rules import FieldBounds, SchemaRules
from serve_app.api.forwarding import Marks
from serve_app.api.gate import Gate, GateFullError
from serve_app.api.journaled_stream import journal_of
from serve_app.api.lending import LendingDesk
from serve_app.api.request_context import (
    RequestContext,
    client_of,
    header,
    is_retry,
    path_below_root,
    retry_key,
)
from serve_app.api.response import ResponseForm
from serve_app.api.routes import Endpoint
from serve_app.api.rules import PreparedRequest, RuleBook, count_sequences, prepare
from serve_app.config.tier import TierSettings
from serve_app.core.access.caller import Caller
from serve_app.core.structure.schema_limits import SchemaLimits
from serve_app.core.tiers import Tier
from serve_app.errors import ClientDisconnectedError, RequestError, invalid

if TYPE_CHECKING:
    from serve_app.api.request_spans import RequestTrace

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


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A generating request of which nothing is parsed yet: `body` as its client has sent it,
    `journaled` what another replica has written behind it."""

    scope: Scope
    receive: Receive
    caller: Caller
    marks: Marks
    body: bytes
    journaled: bytes = b""


@dataclass(slots=True)
class RequestReader:
    """Reads the generating requests of a tier: `receive`, `refused_early`, `read`.

    `known_fields` and `schema_rules` are of vLLM's own request schemas; `thinks` and `r1` say of
    the engine's model that it reasons, and that it is an R1 distill."""

    tier: Tier
    model: str
    gate: Gate
    desk: LendingDesk
    known_fields: Mapping[str, frozenset[str]]
    thinks: bool = False
    r1: bool = False
    # What the engine's context can hold; None: no prompt is too long for it.
    bounds: FieldBounds | None = None
    # What a client's schema may be, before anybody compiles it; None: anything.
    schema_limits: SchemaLimits | None = None
    schema_rules: Mapping[str, SchemaRules] = field(default_factory=dict[str, SchemaRules])
    # Whether the engine can go on with what another one has begun.
    journals: bool = True
    clock_s: Callable[[], float] = time.monotonic
    # The most new tokens that the other tier gives; None where it is not known.
    other_tiers_limit: int | None = None
    bodies: BodyReader = field(default_factory=BodyReader)
    prompts: PromptEstimate = field(default_factory=PromptEstimate)
    early: EarlyRefusals = field(init=False)
    # By whether the request came to the tier's bare prefix.
    _books: dict[bool, RuleBook] = field(default_factory=dict[bool, RuleBook])

    def __post_init__(self) -> None:
        self.early = EarlyRefusals(self.gate)

    @property
    def context_tokens(self) -> int | None:
        return None if self.bounds is None else self.bounds.context_tokens

    async def receive(
        self, scope: Scope, receive: Receive, caller: Caller, marks: Marks, settings: TierSettings
    ) -> ReceivedRequest:
        """Its body, to the end. Raises as `BodyReader.read`."""
        received = await self.bodies.read(
            scope,
            receive,
            limit_bytes=settings.max_body_bytes + marks.journal_bytes,
            timeout_s=settings.admission.body_timeout_s,
        )
        end = max(0, len(received) - marks.journal_bytes)
        return ReceivedRequest(scope, receive, caller, marks, received[:end], received[end:])

    def refused_early(self, received: ReceivedRequest) -> GateFullError | None:
        """Why it is refused without a look at it. What other replicas send has been looked at."""
        marks = received.marks
        if not self.early.full or marks.forwarded or marks.resumption is not None:
            return None
        return self.early.refusal(
            received.caller.flow,
            retry_key(client_of(received.scope), received.body),
            prompt_tokens=self.prompts.tokens(len(received.body)),
            retried=is_retry(received.scope),
        )

    def read(
        self,
        received: ReceivedRequest,
        form: ResponseForm,
        trace: "RequestTrace | None",
        arrived_s: float,
        settings: TierSettings,
    ) -> RequestContext:
        """Apply the rules of its tier. Raises RequestError."""
        scope, marks, endpoint = received.scope, received.marks, form.endpoint
        borrower = self.desk.borrower_of(scope) if marks.forwarded else None
        payload = parse_object(received.body)
        deadline = self._deadline(payload, received, arrived_s, settings)
        prepared = self._prepared(payload, received, endpoint, borrower, settings)
        journal = None
        if marks.followed and self.journals and prepared.can_move:
            journal = journal_of(marks.resumption, received.journaled, prepared)
        if trace is not None:
            trace.prepared(prepared)
        return RequestContext(
            scope,
            received.receive,
            endpoint,
            form.request_id.value,
            client_of(scope),
            received.body,
            prepared,
            as_json(prepared.payload),
            marks.forwarded,
            borrower,
            received.caller,
            trace,
            journal,
            marks.resumption,
            deadline,
        )

    def _deadline(
        self,
        payload: dict[str, Any],
        received: ReceivedRequest,
        arrived_s: float,
        settings: TierSettings,
    ) -> AnswerDeadline | None:
        scope, marks = received.scope, received.marks
        asked = DEADLINE_FIELD in payload or header(scope, DEADLINE_HEADER) is not None
        if not asked and marks.deadline is None:
            return None
        return take_deadline(
            payload,
            scope,
            settings.limits,
            arrived_s=arrived_s,
            clock_s=self.clock_s,
            marked=marks.deadline,
            forwarded_here=marks.forwarded,
        )

    def _prepared(
        self,
        payload: dict[str, Any],
        received: ReceivedRequest,
        endpoint: Endpoint,
        borrower: Tier | None,
        settings: TierSettings,
    ) -> PreparedRequest:
        """By the rules of this tier, or as its borrower's have left it."""
        if borrower is None:
            bare = path_below_root(received.scope) in ("", "/")
            prepared = prepare(payload, endpoint, self._book(settings, bare=bare))
        else:
            most = settings.max_new_tokens
            prepared = self.desk.prepare(received.scope, payload, endpoint, borrower, most)
        if received.marks.resumption is not None and not prepared.can_move:
            # It was begun under other settings, which a policy of the tier's own gives way to.
            sequences = count_sequences(prepared.payload, endpoint)
            prepared = replace(prepared, policy=None, sequences=sequences)
        return prepared

    def _book(self, settings: TierSettings, *, bare: bool) -> RuleBook:
        """The rules as they are now: written anew once settings or limits are others."""
        book = self._books.get(bare)
        if (
            book is None
            or book.settings is not settings
            or book.slots != self.gate.limits.slots
            or book.other_tiers_limit != self.other_tiers_limit
        ):
            book = self._books[bare] = RuleBook(
                self.tier,
                settings,
                self.gate.limits.slots,
                self.model,
                self.known_fields,
                self.thinks,
                self.r1,
                self.bounds,
                self.schema_limits,
                self.schema_rules,
                settings.limits.lowers(bare=bare),
                self.other_tiers_limit,
            )
        return book


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
    for name, value in payload.items():
        for part in _scalars(value):
            if isinstance(part, int) and not LEAST_INTEGER <= part <= MOST_INTEGER:
                raise invalid(
                    f"`{name[:64]}` has an integer beyond 64 bits: from -2^63 to 2^63 - 1.",
                    param=name[:64],
                    code="integer_too_large",
                )
