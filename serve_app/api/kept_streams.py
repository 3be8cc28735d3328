"""The streams of a gateway that their clients may come back to: who may read which, for how long
each goes on and is kept, and how many there may be.

(1) A stream begins with an id of the server's own, which its client gets in a header.
(2) While no client reads it, it goes on for `client_gone_s`; then its work is cancelled.
(3) After its end its events are kept for `kept_s`, and longer while a client reads them.
(4) Beyond `max_kept_mib` of all together the streams that ended first go first; where they do not
    do, the one that grows is kept no more, and goes on as any other stream does.
(5) What was here is remembered for a while, so that its client reads why it is gone.
"""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Counter
from starlette.types import Scope, Send

from serve_app.api.kept_stream import KeptStream, StreamFacts
from serve_app.api.replay_memory import Kept, ReplayMemory
from serve_app.api.request_context import header
from serve_app.config.replay import ReplayConfig
from serve_app.core.access.caller import Caller
from serve_app.core.replay.kept_order import EndedStream, streams_to_forget
from serve_app.errors import RequestError

log = logging.getLogger(__name__)

RESUMABLE_HEADER = b"x-tierserve-resumable"
LAST_EVENT_ID_HEADER = b"last-event-id"
STREAMS_PATH = "/v1/streams/{id}"
# Running and ended ones together.
MOST_STREAMS = 4096
# Of which it is known why they are gone.
MOST_REMEMBERED = 4096
ID_BYTES = 16
MOST_DIGITS = 12
_MIB = 1024 * 1024
_REASONS = {
    "client_gone": "no client read it for {client_gone_s:g} s, so its work was cancelled",
    "expired": "its events were kept for {kept_s:g} s after its end",
    "forgotten": "its events gave way to those of other streams",
    "outgrown": "there was no memory left to keep its events",
}


@dataclass(slots=True)
class KeptStreams:
    """`counter` counts by result what becomes of streams and clients."""

    settings: ReplayConfig
    counter: Counter
    most_streams: int = MOST_STREAMS
    memory: ReplayMemory = field(init=False)
    _streams: dict[str, KeptStream] = field(default_factory=dict[str, KeptStream])
    # In the order in which they ended.
    _ended: dict[str, KeptStream] = field(default_factory=dict[str, KeptStream])
    _gone: OrderedDict[str, tuple[str | None, str]] = field(
        default_factory=OrderedDict[str, tuple[str | None, str]]
    )
    _tasks: dict[KeptStream, asyncio.Task[None]] = field(
        default_factory=dict[KeptStream, asyncio.Task[None]]
    )
    # When one of them is cancelled, or forgotten.
    _timers: dict[KeptStream, asyncio.TimerHandle] = field(
        default_factory=dict[KeptStream, asyncio.TimerHandle]
    )

    def __post_init__(self) -> None:
        self.memory = ReplayMemory(self.settings.max_kept_mib * _MIB)

    async def run(
        self,
        relay: Callable[[Send], Coroutine[Any, Any, None]],
        send: Send,
        *,
        caller: Caller,
        request_id: str,
        tier: str,
    ) -> None:
        """Run `relay`, which is given what it writes into, and send it to the client until it has
        all of it or is cancelled. The relay goes on then, where the client knows the stream's id.
        Raises what the relay raises."""
        facts = StreamFacts(secrets.token_hex(ID_BYTES), _owner(caller), request_id, tier)
        if not self._has_place():
            self.counter.labels(result="not_kept").inc()
            await relay(send)
            return
        stream = KeptStream(
            facts, send, Kept(self.memory), self._has_room, self._let_go, self._has_left
        )
        self._streams[facts.stream_id] = stream
        task = self._tasks[stream] = asyncio.create_task(relay(stream.write))
        task.add_done_callback(lambda done: self._has_ended(stream, done))
        try:
            await stream.read_first(send)
        finally:
            if not stream.opened:
                self._forget(stream, None)
                task.cancel()
                await asyncio.wait({task})

    def find(self, stream_id: str, caller: Caller) -> KeptStream:
        """The stream of this id, for the caller whose it is. Raises RequestError 404 and 410."""
        stream, gone = self._streams.get(stream_id), self._gone.get(stream_id)
        if stream is not None and _may_read(stream.facts.owner, caller):
            return stream
        if gone is not None and _may_read(gone[0], caller):
            why = _REASONS[gone[1]].format(**self.settings.model_dump())
            raise RequestError(
                410, f"This stream is gone: {why}. Send its request again.", code="stream_gone"
            )
        raise RequestError(
            404,
            "There is no such stream of yours here. Its id is the header x-tierserve-stream-id of "
            "the answer to a request with x-tierserve-resumable: 1; only the gateway process that "
            "gave it out knows it, and only to the key that asked. Send the request again.",
            code="stream_not_found",
        )

    async def resume(self, stream: KeptStream, after: int, send: Send) -> None:
        """Send a client what is behind event `after`. Raises RequestError."""
        if after > stream.count:
            raise RequestError(
                400,
                f"This stream has {stream.count} events until now; event {after} is none of them.",
                param="Last-Event-ID",
                code="no_such_event",
            )
        if not stream.ended:
            self._stop_timer(stream)
        self.counter.labels(result="resumed").inc()
        self._log(stream, "a client resumes its stream", logging.INFO, after=after)
        await stream.read_again(send, after)

    async def close(self) -> None:
        """End all of them."""
        tasks = [*self._tasks.values()]
        for stream in [*self._streams.values()]:
            self._forget(stream, None)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- what becomes of one

    def _has_place(self) -> bool:
        if self.settings.max_kept_mib == 0:
            return False
        excess = len(self._streams) + 1 - self.most_streams
        return excess <= 0 or self._made_room(0, excess)

    def _has_room(self, stream: KeptStream, size_bytes: int) -> bool:
        memory = self.memory
        excess_bytes = memory.kept_bytes + size_bytes - memory.limit_bytes
        if excess_bytes > 0:
            self._made_room(excess_bytes, 0)
        return stream.kept.resize(stream.kept.size_bytes + size_bytes)

    def _made_room(self, excess_bytes: int, excess_streams: int) -> bool:
        unread = (
            EndedStream(stream_id, stream.kept.size_bytes)
            for stream_id, stream in self._ended.items()
            if stream.reader is None
        )
        chosen = streams_to_forget(unread, excess_bytes=excess_bytes, excess_streams=excess_streams)
        for stream_id in chosen:
            self._forget(self._ended[stream_id], "forgotten")
        return bool(chosen)

    def _let_go(self, stream: KeptStream) -> None:
        """It goes on as any other stream does; without a client that is not at all."""
        self._log(stream, "no memory for the events of a resumable stream", logging.WARNING)
        self._forget(stream, "outgrown")
        if stream.reader is None:
            self._tasks[stream].cancel()

    def _has_left(self, stream: KeptStream) -> None:
        """The client that read it has lost its connection, or has all of it."""
        if stream.ended:
            return
        if stream.resumable:
            self._start_timer(stream, self.settings.client_gone_s, self._cancel)
        else:
            self._tasks[stream].cancel()

    def _has_ended(self, stream: KeptStream, task: asyncio.Task[None]) -> None:
        del self._tasks[stream]
        failure = None if task.cancelled() else task.exception()
        if failure is not None and stream.reader is None and stream.opened:
            details = {"request_id": stream.facts.request_id, "tier": stream.facts.tier}
            log.error("a stream that no client reads has failed", exc_info=failure, extra=details)
        stream.end(failure)
        if stream.facts.stream_id in self._streams:
            self._ended[stream.facts.stream_id] = stream
            self._start_timer(stream, self.settings.kept_s, self._expire)

    def _cancel(self, stream: KeptStream) -> None:
        self._log(stream, "no client came back to a stream", logging.INFO)
        self._forget(stream, "client_gone")
        self._tasks[stream].cancel()

    def _expire(self, stream: KeptStream) -> None:
        if stream.reader is None:
            self._forget(stream, "expired")
        else:
            self._start_timer(stream, self.settings.kept_s, self._expire)

    def _forget(self, stream: KeptStream, why: str | None) -> None:
        """`why` None: its client has never had its id, or nobody can ask any more."""
        facts = stream.facts
        self._stop_timer(stream)
        stream.kept.resize(0)
        self._ended.pop(facts.stream_id, None)
        if self._streams.pop(facts.stream_id, None) is None or why is None:
            return
        self.counter.labels(result=why).inc()
        self._gone[facts.stream_id] = (facts.owner, why)
        if len(self._gone) > MOST_REMEMBERED:
            self._gone.popitem(last=False)

    def _start_timer(
        self, stream: KeptStream, after_s: float, then: Callable[[KeptStream], None]
    ) -> None:
        self._stop_timer(stream)
        loop = asyncio.get_running_loop()
        self._timers[stream] = loop.call_later(after_s, then, stream)

    def _stop_timer(self, stream: KeptStream) -> None:
        if (timer := self._timers.pop(stream, None)) is not None:
            timer.cancel()

    def _log(self, stream: KeptStream, message: str, level: int, **fields: object) -> None:
        facts = stream.facts
        details = {"request_id": facts.request_id, "tier": facts.tier, "events": stream.count}
        log.log(level, message, extra={**details, **fields})


def wants_resumable(scope: Scope) -> bool:
    """Whether the client of a request would come back to its stream."""
    return header(scope, RESUMABLE_HEADER) == b"1"


def refuse_resumption(scope: Scope) -> None:
    """Raises RequestError for a POST that would resume a stream: it would begin another one."""
    if header(scope, LAST_EVENT_ID_HEADER):
        raise RequestError(
            400,
            "A stream is not resumed by sending its request again. Send GET /v1/streams/<id> with "
            "Last-Event-ID instead; the id is the header x-tierserve-stream-id of the answer.",
            param="Last-Event-ID",
            code="resumed_by_get",
        )


def last_event(scope: Scope, after: str | None) -> int:
    """The number of the last event that the client has: by `Last-Event-ID`, or by `after` of the
    query; 0 without either. Raises RequestError."""
    given = header(scope, LAST_EVENT_ID_HEADER)
    text = given.decode("latin-1").strip() if given else after or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        param = "Last-Event-ID" if given else "after"
        raise RequestError(
            400,
            f"`{param}` must be the number of an event: the `id` of the last one that came, or 0.",
            param=param,
        )
    return int(text)


def _owner(caller: Caller) -> str | None:
    return None if caller.key is None else caller.key.name


def _may_read(owner: str | None, caller: Caller) -> bool:
    """Whoever has the id, where it was asked for without a key."""
    return owner is None or owner == _owner(caller)
