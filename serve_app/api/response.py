"""The response to one request on its way to the client.

`TierResponse` is what the client gets: opened once, by a heartbeat, an error or the first chunk,
and ended once. What runs the request writes into it through an ASGI `send`, `from_engine` or
`from_replica`, whose transforms of the body are chosen before its first byte.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from starlette.types import Message, Send

from serve_app.api.access import USAGE_COMMENT, USAGE_HEADER, Spending, written_usage
from serve_app.api.answer_cache import KeptAnswer, Recording
from serve_app.api.asgi import send_error
from serve_app.api.engine_errors import ERROR_STARTS, client_error, error_event, error_in
from serve_app.api.journaled_stream import lost_event, with_steps, without_comments
from serve_app.api.policy_report import count_all_in_chunk
from serve_app.api.request_context import RequestId
from serve_app.api.response_metadata import REASONING_HEADER, in_chunk, in_whole
from serve_app.api.routes import Endpoint
from serve_app.core.generation import Generation
from serve_app.errors import RequestError, engine_stopped, internal_error
from serve_app.telemetry import TierMetrics

# A quote inside a JSON string is always escaped, so this matches a key and its string value only.
_REASONING = re.compile(rb'"reasoning":(\s*(?:null|"(?:[^"\\]|\\.)*"))')
_BOTH_NAMES = rb'"reasoning":\1,"reasoning_content":\1'
SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies that buffer would hold heartbeats and tokens back.
    (b"x-accel-buffering", b"no"),
)
# Of a stream of which nothing can be sent yet.
DECIDING = b": deciding\n\n"
_LENGTH_AND_TYPE = (b"content-length", b"content-type", b"x-accel-buffering")

HeaderList = list[tuple[bytes, bytes]]
ChunkTransform = Callable[[bytes], bytes]
# Of a whole JSON body: the body and headers to go with it.
WholeTransform = Callable[[bytes], tuple[bytes, HeaderList]]


@dataclass(slots=True)
class ResponseTiming:
    """When the first and the last chunk of a response left, in seconds of the metrics' clock."""

    first_chunk_s: float | None = None
    last_chunk_s: float | None = None
    chunks: int = 0

    @property
    def token_s(self) -> float | None:
        """Mean gap between chunks."""
        if self.chunks < 2 or self.first_chunk_s is None or self.last_chunk_s is None:
            return None
        return (self.last_chunk_s - self.first_chunk_s) / (self.chunks - 1)

    @property
    def streamed_s(self) -> float:
        """From the first chunk to the last one."""
        return (self.last_chunk_s or 0.0) - (self.first_chunk_s or 0.0)


@dataclass(frozen=True, slots=True)
class ResponseForm:
    """What is known of a response before it begins. `headers` go on it unless whoever ran the
    request has set them; `renamed`: the model's name in the engine, and the client's name for it;
    `written_as`: the client's names of fields by the engine's; `max_new_tokens`: of each answer;
    `limit_headers`: of the caller's key, as they are when the response begins; `says_usage`: to
    the replica that has forwarded the request; `followed`: a stream that may go on elsewhere, and
    has gone on `replays` times."""

    endpoint: Endpoint
    request_id: RequestId
    headers: tuple[tuple[bytes, bytes], ...] = ()
    renamed: tuple[str, str] | None = None
    written_as: Mapping[str, str] = field(default_factory=dict[str, str])
    max_new_tokens: int = 0
    engine_dead: Callable[[], bool] = lambda: False
    limit_headers: Callable[[], Iterable[tuple[bytes, bytes]]] = tuple
    says_usage: bool = False
    followed: bool = False
    replays: int = 0


@dataclass(slots=True)
class TierResponse:
    """What the client has of its response so far. `recording` keeps what is sent for the cache,
    `spending` what the request uses."""

    send: Send
    form: ResponseForm
    metrics: TierMetrics
    clock_s: Callable[[], float]
    spending: Spending = field(default_factory=Spending)
    recording: Recording | None = None
    status: int = 0
    started: bool = False
    complete: bool = False
    # Other replicas may have it: this one drains.
    offered: bool = False
    timing: ResponseTiming = field(default_factory=ResponseTiming)

    def from_engine(
        self,
        generation: Generation | None = None,
        *,
        observed: bool = True,
        before_whole: Callable[[], None] = lambda: None,
    ) -> Send:
        """The `send` of vLLM's application. `observed`: the gaps between its chunks count in this
        tier's metrics; `before_whole` is called once the engine's part of a whole answer is over
        and only sending is left."""
        form = self.form
        chunk = _of_a_chunk(self, generation)
        whole = _of_a_whole(form, generation)
        return _Incoming(
            self, chunk, whole, self._error_of_engine, observed=observed, before_whole=before_whole
        )

    def from_replica(self, *, observed: bool) -> Send:
        """The `send` of a response that another replica's edge has brought into form."""
        chunk = () if self.recording is None else (_recording(self.recording, self.form),)
        return _Incoming(self, chunk, lambda body: (body, []), None, observed=observed)

    async def heartbeat(self, ahead: int) -> None:
        """An SSE comment while the request waits; the first one opens the stream."""
        if not self.started:
            await self.start(200, [*SSE_HEADERS])
        await self.chunk(b": waiting, %d ahead\n\n" % ahead)

    async def keep_open(self) -> None:
        """An SSE comment while the engine has nothing to send yet, as `heartbeat`."""
        if not self.started:
            await self.start(200, [*SSE_HEADERS])
        await self.chunk(DECIDING)

    async def replay(self, kept: KeptAnswer) -> None:
        """Send a kept answer, a stream event by event."""
        self.complete = True
        parts = kept.renamed(self.form.request_id.value)
        if kept.streamed:
            headers = [*SSE_HEADERS]
        else:
            size = sum(map(len, parts))
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
        await self.start(200, [*headers, *kept.headers])
        for number, part in enumerate(parts, 1):
            self.measure(observed=False)
            await self.chunk(part, more=number < len(parts))

    async def fail(self, error: RequestError) -> bool:
        """End a response that nobody else ends: as an error response, or as an error event. True
        for a stream that may go on elsewhere, whose end says no more than that."""
        if self.complete:
            return False
        lost = lost_event(error) if self.form.followed else None
        self.complete, self.status = True, error.status
        anthropic = self.form.endpoint.anthropic
        says_usage = self.form.says_usage
        if self.started:
            event = lost or self.error_event(error.body(anthropic=anthropic))
            await self.chunk(event + (self.usage_comment() if says_usage else b""), more=False)
        else:
            usage = [(USAGE_HEADER, self.usage())] if says_usage else []
            await send_error(
                self.send,
                error,
                request_id=self.form.request_id,
                anthropic=anthropic,
                headers=[*usage, *self.form.limit_headers()],
            )
        return lost is not None

    async def start(self, status: int, headers: HeaderList) -> None:
        self.started, self.status = True, status
        given = {name.lower() for name, _ in headers}
        own = [(name, value) for name, value in self.form.headers if name not in given]
        headers = [
            *headers,
            *own,
            *self.form.limit_headers(),
            *self.form.request_id.response_headers,
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def chunk(self, body: bytes, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    def error_event(self, body: bytes, *, last: bool = True) -> bytes:
        return error_event(body, self.form.endpoint, number=self.timing.chunks, last=last)

    async def may_begin(self) -> None:
        """Wait with the first byte of an answer until what it may use is known to the ledger."""
        await self.spending.acknowledged()

    def usage(self) -> bytes:
        """What the request has used until now, for the replica that has forwarded it."""
        return written_usage(self.spending.used())

    def usage_comment(self) -> bytes:
        return USAGE_COMMENT + self.usage() + b"\n\n"

    def measure(self, *, observed: bool) -> None:
        """A chunk leaves now. One edge observes a response's gaps: the one that ran it, or the
        borrower's."""
        now_s, timing = self.clock_s(), self.timing
        if timing.last_chunk_s is None:
            timing.first_chunk_s = now_s
        elif observed:
            self.metrics.itl_s.observe(now_s - timing.last_chunk_s)
        timing.last_chunk_s = now_s
        timing.chunks += 1

    def _error_of_engine(self, status: int, body: bytes) -> RequestError:
        """vLLM's error as this service's. What it says of a failure of the server is for the log,
        where vLLM has written it."""
        form = self.form
        if status >= 500 and status != 501:
            return engine_stopped() if form.engine_dead() else internal_error()
        # What is not implemented is asked for by the client.
        status = 400 if status == 501 else status
        error = client_error(status, body, form.endpoint, granted=form.max_new_tokens)
        return error.under_names(form.written_as)


@dataclass(slots=True, eq=False)
class _Incoming:
    """An ASGI `send` that brings what it is given into the client's form.

    (1) The start is kept until the first part of the body, which may be an error after all.
    (2) Each chunk of a stream goes through `to_chunk`, and out at once.
    (3) A whole answer is collected, goes through `to_whole` or `to_error`, and out with its
        length; where heartbeats have opened a stream already, it can only be an error event.
    """

    response: TierResponse
    to_chunk: tuple[ChunkTransform, ...]
    to_whole: WholeTransform
    # None: what comes is an error of this service's already.
    to_error: Callable[[int, bytes], RequestError] | None
    observed: bool
    before_whole: Callable[[], None] = lambda: None
    _start: Message | None = None
    _body: bytes = b""
    _streaming: bool = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":  # (1)
            self.response.status = message["status"]
            headers = {key.lower(): value for key, value in message["headers"]}
            self._streaming = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            self._start = message
        elif self._streaming:  # (2)
            if self._start is not None and not await self._begin_stream(message):
                return
            await self.response.send(self._transformed(message))
        else:  # (3)
            self._body += message.get("body", b"")
            # Parts may still come behind an error that was taken for the whole answer.
            if not message.get("more_body", False) and not self.response.complete:
                await self._send_whole()

    async def _begin_stream(self, message: Message) -> bool:
        """Send the start of a stream, whose first part this is; False where that is the error that
        vLLM has found in the request after all, which then is the whole answer."""
        response, start = self.response, self._start
        assert start is not None
        error = None if self.to_error is None else error_in(message.get("body", b""))
        if error is not None and not response.started:
            self._streaming, self._body, response.status = False, error.body, error.status
            await self._send_whole()
            return False
        self._start = None
        await response.may_begin()
        if not response.started:
            await response.start(response.status, [*start["headers"], SSE_HEADERS[2]])
        return True

    def _transformed(self, message: Message) -> Message:
        """A chunk of a stream. Here is what every token costs beyond vLLM's own server."""
        body = original = message.get("body", b"")
        response = self.response
        # Another replica's heartbeats are no part of the answer.
        if body and (response.timing.chunks or _without_heartbeats(body)):
            response.measure(observed=self.observed)
            for transform in self.to_chunk:
                body = transform(body)
        if not message.get("more_body", False):
            response.complete = True
            if response.recording is not None:
                response.recording.end(response.status)
            if response.form.says_usage:
                body += response.usage_comment()
        return message if body is original else {**message, "body": body}

    async def _send_whole(self) -> None:
        response, start = self.response, self._start
        assert start is not None
        status, body, headers = self._in_form(response.status)
        response.status, response.complete = status, True
        self.before_whole()
        await response.may_begin()
        if response.recording is not None:
            given = [each for each in start["headers"] if each[0] == REASONING_HEADER]
            response.recording.whole(body, [*given, *headers])
            response.recording.end(status)
        if response.form.says_usage:
            headers = [*headers, (USAGE_HEADER, response.usage())]
        if response.started:
            await response.chunk(response.error_event(body), more=False)
            return
        kept = [each for each in start["headers"] if each[0].lower() not in _LENGTH_AND_TYPE]
        kept.append((b"content-type", _content_type(start, status)))
        length = (b"content-length", b"%d" % len(body))
        await response.start(status, [*kept, *headers, length])
        await response.chunk(body, more=False)

    def _in_form(self, status: int) -> tuple[int, bytes, HeaderList]:
        if status >= 400 and self.to_error is not None:
            error = self.to_error(status, self._body)
            anthropic = self.response.form.endpoint.anthropic
            return error.status, error.body(anthropic=anthropic), error.headers
        if status != 200:
            return status, self._body, []
        return status, *self.to_whole(self._body)


def _of_a_chunk(
    response: TierResponse, generation: Generation | None
) -> tuple[ChunkTransform, ...]:
    """What is done to each chunk of the engine's, in this order."""
    form, recording = response.form, response.recording
    endpoint = form.endpoint
    to_error = response._error_of_engine

    def with_our_error(body: bytes) -> bytes:
        if not body.startswith(ERROR_STARTS) or (error := error_in(body)) is None:
            return body
        ours = to_error(error.status, error.body)
        return response.error_event(ours.body(anthropic=endpoint.anthropic), last=False)

    transforms: list[ChunkTransform] = []
    if form.renamed is not None:
        transforms.append(_renaming(*form.renamed))
    if endpoint.reasoning_twice:
        transforms.append(_under_both_names)
    transforms.append(with_our_error)
    if generation is not None and endpoint.ending is not None:
        transforms.append(_with_metadata(endpoint, endpoint.ending, generation, form.replays))
    if generation is not None and generation.policy is not None:
        transforms.append(partial(count_all_in_chunk, generation=generation))
    if recording is not None:
        transforms.append(recording.chunk)
    if generation is not None and generation.journal is not None:
        transforms.append(with_steps(generation.journal))
    return tuple(transforms)


def _recording(recording: Recording, form: ResponseForm) -> ChunkTransform:
    """Of what another replica sends."""
    events_of = without_comments if form.followed else _without_heartbeats

    def transform(body: bytes) -> bytes:
        if events := events_of(body):
            recording.chunk(events)
        return body

    return transform


def _without_heartbeats(body: bytes) -> bytes:
    """A chunk without those in front of it, which may have come together with the first event."""
    while body.startswith(DECIDING):
        body = body[len(DECIDING) :]
    return body


def _with_metadata(
    endpoint: Endpoint, ending: bytes, generation: Generation, replays: int
) -> ChunkTransform:
    """At the last chunk of each answer, what the engine has reported of it."""
    return lambda body: in_chunk(body, endpoint, generation, replays) if ending in body else body


def _of_a_whole(form: ResponseForm, generation: Generation | None) -> WholeTransform:
    """What is done to a whole answer of the engine's."""

    def transform(body: bytes) -> tuple[bytes, HeaderList]:
        headers: HeaderList = []
        if form.renamed is not None:
            body = _renaming(*form.renamed)(body)
        if generation is not None:
            body, headers = in_whole(body, form.endpoint, generation)
        if form.endpoint.reasoning_twice:
            body = _under_both_names(body)
        return body, headers

    return transform


def _under_both_names(body: bytes) -> bytes:
    """Reasoning under vLLM's name and under DeepSeek's."""
    return _REASONING.sub(_BOTH_NAMES, body) if b'"reasoning":' in body else body


def _renaming(engines: str, clients: str) -> ChunkTransform:
    """The engine's chunks are whole events, and a quote inside a JSON string is escaped, so this
    matches a key with its value only."""
    ours, theirs = b'"model":"%s"' % engines.encode(), b'"model":"%s"' % clients.encode()
    return lambda body: body.replace(ours, theirs)


def _content_type(start: Message, status: int) -> bytes:
    if status >= 400:
        return b"application/json"
    given = (value for key, value in start["headers"] if key.lower() == b"content-type")
    return next(given, b"application/json")
