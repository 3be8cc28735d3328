"""What the client sees of vLLM's answer: request id, both names of a thought, heartbeats."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import Message, Send

from serve_app.api.answer_cache import KeptAnswer
from serve_app.api.answer_facts import THOUGHT_HEADER, ends_answer, in_chunk, in_whole
from serve_app.api.endpoints import Endpoint
from serve_app.api.full_context import about_context
from serve_app.api.messages import RequestId, send_error
from serve_app.api.stream_errors import error_event, error_in
from serve_app.api.validation_words import in_plain_words, models_named
from serve_app.core.generation import Generation
from serve_app.core.tiers import Tier
from serve_app.errors import FAULT, RequestError, engine_stopped
from serve_app.telemetry import TierMetrics

# A quote inside a JSON string is always escaped, so this matches a key and its string value only.
_THOUGHT = re.compile(rb'"reasoning":(\s*(?:null|"(?:[^"\\]|\\.)*"))')
_BOTH_NAMES = rb'"reasoning":\1,"reasoning_content":\1'
SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies that buffer would hold heartbeats and tokens back.
    (b"x-accel-buffering", b"no"),
)


# vLLM may repeat what it was sent: megabytes of ids that are out of its vocabulary.
MAX_MESSAGE_CHARS = 1000
SERVER_FAULT = RequestError(500, FAULT, code="internal_error")


@dataclass(slots=True)
class AnswerTiming:
    """When the first and the last chunk of an answer left, in seconds of the metrics' clock."""

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


class Answer:
    """An ASGI `send` between vLLM's application and the client."""

    def __init__(
        self,
        send: Send,
        *,
        request_id: RequestId,
        endpoint: Endpoint,
        metrics: TierMetrics,
        clock_s: Callable[[], float],
        engine_dead: Callable[[], bool] = lambda: False,
    ) -> None:
        self._send = send
        self._engine_dead = engine_dead
        self._request_id = request_id
        self._endpoint = endpoint
        self._metrics = metrics
        self._clock_s = clock_s
        self._held_start: Message | None = None
        self._held_body = b""
        self._streaming = False
        self._started = False
        self.status = 0
        self.complete = False
        # Another replica's edge has put the answer into form.
        self.relayed = False
        # One edge measures an answer's chunks: the one that ran it, or the borrower's.
        self.measured_here = True
        # The name that the engine gives its model, and the one under which it was asked for.
        self.renamed: tuple[str, str] | None = None
        self.timing = AnswerTiming()
        # What the engine tells of the answer beside it, once it runs here.
        self.generation: Generation | None = None
        # The most new tokens that each answer of the request may have.
        self.max_new_tokens = 0
        # The client's names of fields that the engine knows by others.
        self.written_as: Mapping[str, str] = {}
        # Put on the answer unless whoever ran it has done so.
        self.headers: list[tuple[bytes, bytes]] = []
        self._recorded: KeptAnswer | None = None
        self._keep: Callable[[KeptAnswer], None] | None = None
        # Called when the engine's part is over and only sending is left.
        self.before_whole: Callable[[], None] = lambda: None

    def record(self, keep: Callable[[KeptAnswer], None]) -> None:
        """Give `keep` what is sent from now on, if it comes to a good end: before its last part is
        sent, so that a client that then asks again finds it."""
        self._keep = keep

    async def replay(self, kept: KeptAnswer, request_id: str) -> None:
        """Send a kept answer, a stream event by event."""
        self.status, self.complete, self.measured_here = 200, True, False
        parts = kept.renamed(request_id)
        if kept.streamed:
            headers = [*SSE_HEADERS]
        else:
            size = sum(map(len, parts))
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
        await self._start(200, [*headers, *kept.headers])
        for number, part in enumerate(parts, 1):
            self._measure()
            await self._chunk(part, more=number < len(parts))

    async def heartbeat(self, ahead: int) -> None:
        """An SSE comment while the request waits; the first one opens the stream."""
        if not self._started:
            await self._start(200, [*SSE_HEADERS])
        await self._chunk(b": waiting, %d ahead\n\n" % ahead)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._on_start(message)
        elif self._streaming:
            if self._held_start is not None and not await self._begin_stream(message):
                return
            await self._send(self._in_form(message))
        else:
            self._held_body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole()

    def _on_start(self, message: Message) -> None:
        """Held until the first part of the body is there, which may say that all has failed."""
        self.status = message["status"]
        headers = {key.lower(): value for key, value in message["headers"]}
        self._streaming = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        self._held_start = message

    async def _begin_stream(self, message: Message) -> bool:
        """Send the held start of a stream, whose first part this is; False where that is the error
        that vLLM has found in the request after all, which then is the whole answer."""
        start, self._held_start = self._held_start, None
        assert start is not None
        error = None if self.relayed else error_in(message.get("body", b""))
        if error is not None and not self._started:
            self._streaming = False
            self._held_start, self._held_body = start, error.body
            self.status = error.status
            await self._send_whole()
            return False
        if not self._started:
            await self._start(self.status, [*start["headers"], SSE_HEADERS[2]])
        return True

    def _in_form(self, message: Message) -> Message:
        """A chunk of a stream. Here is what every token costs beyond vLLM's own server."""
        body = asked = message.get("body", b"")
        if body:
            self._measure()
            if self.renamed is not None:
                body = self._under_its_name(body)
            if b'"reasoning":' in body and self._endpoint.thought_twice and not self.relayed:
                body = _THOUGHT.sub(_BOTH_NAMES, body)
            if not self.relayed and (error := error_in(body)) is not None:
                told = self._as_error(error.status, error.body)[1]
                body = self._error_event(told, last=False)
            if self.generation is not None and ends_answer(body, self._endpoint):
                body = in_chunk(body, self._endpoint, self.generation)
            if self._keep is not None:
                self._record(body)
        if not message.get("more_body", False):
            self.complete = True
            self._hand_over()
        return message if body is asked else {**message, "body": body}

    async def _send_whole(self) -> None:
        """A JSON answer; if heartbeats already opened a stream, it can only be an error event."""
        assert self._held_start is not None
        if not self.complete:
            # Parts may still come behind an error that was taken for the whole answer.
            await self._send_held(self._held_start)

    async def _send_held(self, start: Message) -> None:
        facts: list[tuple[bytes, bytes]] = []
        body = self._under_its_name(self._held_body)
        if self.status >= 400 and not self.relayed:
            self.status, body, facts = self._as_error(self.status, body)
        elif not self.relayed and self.status == 200:
            body, facts = self._with_facts(body)
        self.complete = True
        self.before_whole()
        told = [(key, value) for key, value in start["headers"] if key == THOUGHT_HEADER]
        self._record(body, [*told, *facts])
        self._hand_over()
        if self._started:
            await self._chunk(self._error_event(body), more=False)
            return
        headers = [
            (key, value)
            for key, value in start["headers"]
            if key.lower() not in (b"content-length", b"content-type", b"x-accel-buffering")
        ]
        headers.append((b"content-type", _content_type(start, self.status)))
        length = (b"content-length", b"%d" % len(body))
        await self._start(self.status, [*headers, *facts, length])
        await self._chunk(body, more=False)

    def _with_facts(self, body: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        headers: list[tuple[bytes, bytes]] = []
        if self.generation is not None:
            body, headers = in_whole(body, self._endpoint, self.generation)
        if self._endpoint.thought_twice:
            body = _THOUGHT.sub(_BOTH_NAMES, body)
        return body, headers

    def _record(self, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        if self._keep is None or not body:
            return
        if self._recorded is None:
            self._recorded = KeptAnswer(self._streaming, tuple(headers or ()))
        self._recorded.parts.append(body)

    def _hand_over(self) -> None:
        if self._keep is not None and self._recorded is not None and self.status == 200:
            self._keep(self._recorded)

    def _under_its_name(self, body: bytes) -> bytes:
        """The engine's chunks are whole events, and a quote inside a JSON string is escaped, so
        this matches a key with its value only."""
        if self.renamed is None:
            return body
        engines, asked = self.renamed
        return body.replace(b'"model":"%s"' % engines.encode(), b'"model":"%s"' % asked.encode())

    def _as_error(self, status: int, body: bytes) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        """vLLM's error as this service's: status, body and headers. Its words for a fault of the
        server are for the log, where vLLM has written them."""
        anthropic = self._endpoint.anthropic
        if status == 501:
            status = 400  # what is not implemented is asked for by the client
        if status < 500:
            error = _in_plain_words(status, body)
            error = about_context(error, self._endpoint, granted=self.max_new_tokens)
            error = error.under_names(self.written_as)
            return status, error.body(anthropic=anthropic), []
        error = engine_stopped() if self._engine_dead() else SERVER_FAULT
        return error.status, error.body(anthropic=anthropic), error.retry_headers

    async def fail(self, error: RequestError) -> None:
        """End an answer that vLLM will not end: as an error answer, or as an error event."""
        if self.complete:
            return
        self.complete, self.status = True, error.status
        if self._started:
            body = error.body(anthropic=self._endpoint.anthropic)
            await self._chunk(self._error_event(body), more=False)
        else:
            await send_error(
                self._send, error, request_id=self._request_id, anthropic=self._endpoint.anthropic
            )

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        self.status = status
        told = {name.lower() for name, _ in headers}
        own = [(name, value) for name, value in self.headers if name not in told]
        headers = [*headers, *own, *self._request_id.answer_headers]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _chunk(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _error_event(self, body: bytes, *, last: bool = True) -> bytes:
        return error_event(body, self._endpoint, number=self.timing.chunks, last=last)

    def _measure(self) -> None:
        now_s = self._clock_s()
        if self.timing.last_chunk_s is None:
            self.timing.first_chunk_s = now_s
        elif self.measured_here:
            self._metrics.itl_s.observe(now_s - self.timing.last_chunk_s)
        self.timing.last_chunk_s = now_s
        self.timing.chunks += 1


def _content_type(start: Message, status: int) -> bytes:
    if status >= 400:
        return b"application/json"
    told = (value for key, value in start["headers"] if key.lower() == b"content-type")
    return next(told, b"application/json")


def _in_plain_words(status: int, body: bytes) -> RequestError:
    """vLLM's error in our words, with a `code` that is text or null."""
    try:
        error = json.loads(body)["error"]
        message, param = error["message"], error.get("param")
    except (ValueError, TypeError, KeyError):
        message, param = body.decode(errors="replace") or "no details", None
    message, param = in_plain_words(message, param)
    if status == 404 and (named := models_named(message, list(Tier))) != message:
        message, param = named, "model"
    if len(message) > MAX_MESSAGE_CHARS:
        message = f"{message[:MAX_MESSAGE_CHARS]}..."
    code = {400: "invalid_value", 404: "model_not_found"}.get(status)
    return RequestError(status, message, param=param, code=code)
