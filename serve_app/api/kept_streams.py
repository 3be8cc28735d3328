"""The streams of one process that their clients may come back to: who may read which, for how long
each goes on and is kept, and how many there may be.

(1) A stream begins with an id of the server's own, which nobody guesses; its client gets it in a
    header.
(2) While no client reads it, it goes on for `client_gone_s`; then its work is cancelled. So do at
    most `max_away` of one caller; one more ends with its client.
(3) After its end its events are kept for `kept_s`, and ten times as long while a client reads them.
(4) Beyond `max_kept_mib` of all together the caller that has most of it makes room: its streams
    that ended first go; where it has none, one that runs is kept no more, and goes on as any other
    stream does; at last one goes that has ended and is read still. A caller that has no more than
    an equal part is never harmed by others.
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
from starlette.types import Message, Scope, Send

from serve_app.api.kept_share import KeptShare
from serve_app.api.kept_stream import EVENT_BYTES, MOVED, KeptStream, StreamFacts, is_stream
from serve_app.api.replay_memory import Kept, ReplayMemory
from serve_app.api.replay_wire import EVENT_END
from serve_app.api.request_context import header
from serve_app.api.routes import STREAMS_PATH
from serve_app.config.replay import ResumableConfig
from serve_app.core.access.caller import Caller
from serve_app.core.admission.fairness import ANONYMOUS
from serve_app.core.replay.kept_order import gives_way
from serve_app.errors import RequestError

log = logging.getLogger(__name__)

RESUMABLE_HEADER = b"x-tierserve-resumable"
# On the answer to a request that asked for a resumable stream, and gets one that is not.
NOT_RESUMABLE = (RESUMABLE_HEADER, b"0")
LAST_EVENT_ID_HEADER = b"last-event-id"
# Running and ended ones together.
MOST_STREAMS = 4096
# Of which it is known why they are gone.
MOST_REMEMBERED = 4096
# So often an ended stream is kept for `kept_s` more because a client reads it.
MOST_RENEWALS = 9
ID_BYTES = 16
MOST_DIGITS = 12
_MIB = 1024 * 1024
_REASONS = {
    "client_gone": "no client read it for {client_gone_s:g} s, so its work was cancelled",
    "too_many_away": "{max_away} others of yours ran on without a client when its own left, so its "
    "work was cancelled",
    "expired": "its events were kept for {kept_s:g} s after its end",
    "forgotten": "its events gave way to those of other streams",
    "outgrown": "there was no memory left to keep its events",
}

# Writes a stream into what it is given; None where it is not kept.
Relaying = Callable[[Send, KeptStream | None], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class KeptStreams:
    """`counter` counts by result what becomes of streams and clients."""

    settings: ResumableConfig
    counter: Counter
    # What all ids here begin with.
    id_prefix: str = ""
    most_streams: int = MOST_STREAMS
    # Called when a client has left a stream that goes on.
    on_away: Callable[[KeptStream], None] = lambda _: None
    memory: ReplayMemory = field(init=False)
    _streams: dict[str, KeptStream] = field(default_factory=dict[str, KeptStream])
    # By the caller's name.
    _shares: dict[str, KeptShare] = field(default_factory=dict[str, KeptShare])
    _gone: OrderedDict[str, tuple[str, str]] = field(
        default_factory=OrderedDict[str, tuple[str, str]]
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

    @property
    def away(self) -> int:
        """How many run on while no client reads them."""
        return sum(share.away for share in self._shares.values())

    @property
    def running(self) -> int:
        """How many have not ended."""
        return len(self._tasks)

    async def ended(self, within_s: float) -> None:
        """Until all that run now have ended, or so much time has gone."""
        if self._tasks:
            await asyncio.wait({*self._tasks.values()}, timeout=within_s)

    async def run(
        self,
        relay: Relaying,
        send: Send,
        *,
        caller: Caller,
        request_id: str,
        tier: str,
    ) -> None:
        """Run `relay`, which is given what it writes into, and the stream if it is one that is
        kept; send it to the client until it has all of it or is cancelled. The relay goes on then,
        where the client knows the stream's id. Raises what the relay raises."""
        owner = caller.flow.name
        if self.settings.max_kept_mib == 0 or not self._make_room(owner, more_streams=1):
            await relay(self._not_kept(send), None)
            return
        stream_id = self.id_prefix + secrets.token_hex(ID_BYTES)
        facts = StreamFacts(stream_id, owner, request_id, tier)
        stream = self._begin(facts, send)
        task = self._start(stream, relay)
        try:
            await stream.read_first(send)
        finally:
            if not stream.opened:
                self._forget(stream, None)
                task.cancel()
                await asyncio.wait({task})

    def take_up(self, relay: Relaying, facts: StreamFacts, events: bytes) -> bool:
        """Keep a stream that another process has begun, and has kept these events of, and run
        `relay` for what is behind them. False where there is no room for it."""
        size_bytes = len(events) + EVENT_BYTES * events.count(EVENT_END)
        if self.settings.max_kept_mib == 0 or facts.stream_id in self._streams:
            return False
        if not self._make_room(facts.owner, more_bytes=size_bytes, more_streams=1):
            return False
        stream = self._begin(facts, _to_nobody)
        stream.take_up(events)
        self._share(facts.owner).resize(stream, size_bytes)
        self._start(stream, relay)
        self._start_timer(stream, self.settings.client_gone_s, self._cancel)
        return True

    def moved(self, stream: KeptStream) -> None:
        """Another process has taken it up: whoever reads it here is to ask for the rest."""
        self.counter.labels(result="moved").inc()
        self._log(stream, "another replica goes on with a stream", logging.INFO)
        stream.last_words = MOVED
        self._forget(stream, None)

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
            "the answer to a request with x-tierserve-resumable: 1; only the process that gave it "
            "out knows it, and only to the key that asked. Send the request again.",
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

    def _begin(self, facts: StreamFacts, send: Send) -> KeptStream:
        stream = KeptStream(
            facts, send, Kept(self.memory), self._has_room, self._let_go, self._has_left
        )
        self._streams[facts.stream_id] = stream
        self._share(facts.owner).running[facts.stream_id] = stream
        return stream

    def _start(self, stream: KeptStream, relay: Relaying) -> asyncio.Task[None]:
        task = self._tasks[stream] = asyncio.create_task(relay(stream.write, stream))
        task.add_done_callback(lambda done: self._has_ended(stream, done))
        return task

    def _share(self, owner: str) -> KeptShare:
        return self._shares.setdefault(owner, KeptShare())

    def _not_kept(self, send: Send) -> Send:
        """A `send` that says of a stream that it is not resumable."""

        async def send_on(message: Message) -> None:
            if is_stream(message):
                self.counter.labels(result="not_kept").inc()
                message = {**message, "headers": [*message["headers"], NOT_RESUMABLE]}
            await send(message)

        return send_on

    def _has_room(self, stream: KeptStream, size_bytes: int) -> bool:
        owner = stream.facts.owner
        is_gone = stream.facts.stream_id not in self._streams
        if is_gone or not self._make_room(owner, more_bytes=size_bytes):
            return False
        return self._share(owner).resize(stream, stream.kept.size_bytes + size_bytes)

    def _make_room(self, owner: str, *, more_bytes: int = 0, more_streams: int = 0) -> bool:
        """Whether there is room for so much more of a caller, once streams have given way."""
        memory = self.memory
        while True:
            if memory.kept_bytes + more_bytes > memory.limit_bytes:
                held = {name: share.size_bytes for name, share in self._shares.items()}
                more = more_bytes
            elif len(self._streams) + more_streams > self.most_streams:
                held = {name: share.count for name, share in self._shares.items()}
                more = more_streams
            else:
                return True
            if not self._one_gives_way(held, owner, more):
                return False

    def _one_gives_way(self, held: dict[str, int], owner: str, more: int) -> bool:
        """One of the caller's that has most; of the next one's where it has none that can."""
        while True:
            chosen = gives_way(held, owner, more)
            share = self._shares.get(chosen, KeptShare())
            if (oldest := share.oldest()) is not None:
                self._forget(oldest, "forgotten")
                return True
            if chosen == owner:
                return False
            if (largest := share.largest()) is not None:
                largest.outgrow()
                return True
            # Else one who reads ever so slowly would keep the memory from all others.
            if (read := share.oldest_read()) is not None:
                self._forget(read, "forgotten")
                read.give_up()
                return True
            del held[chosen]

    def _let_go(self, stream: KeptStream) -> None:
        """It goes on as any other stream does; without a client that is not at all."""
        self._log(stream, "no memory for the events of a resumable stream", logging.WARNING)
        self._forget(stream, "outgrown")
        # Before that its client is only about to read.
        if stream.away:
            self._tasks[stream].cancel()

    def _has_left(self, stream: KeptStream) -> None:
        """The client that read it has lost its connection, or has all of it."""
        if stream.ended:
            return
        if not stream.resumable:
            self._tasks[stream].cancel()
        elif self._share(stream.facts.owner).away > self.settings.max_away:
            self._log(stream, "too many streams of a caller go on without a client", logging.INFO)
            self._forget(stream, "too_many_away")
            self._tasks[stream].cancel()
        else:
            self._start_timer(stream, self.settings.client_gone_s, self._cancel)
            self.on_away(stream)

    def _has_ended(self, stream: KeptStream, task: asyncio.Task[None]) -> None:
        del self._tasks[stream]
        failure = None if task.cancelled() else task.exception()
        if failure is not None and stream.reader is None and stream.opened:
            details = {"request_id": stream.facts.request_id, "tier": stream.facts.tier}
            log.error("a stream that no client reads has failed", exc_info=failure, extra=details)
        stream.end(failure)
        if stream.facts.stream_id in self._streams:
            share = self._share(stream.facts.owner)
            share.ended[stream.facts.stream_id] = share.running.pop(stream.facts.stream_id)
            self._start_timer(stream, self.settings.kept_s, self._expire)

    def _cancel(self, stream: KeptStream) -> None:
        self._log(stream, "no client came back to a stream", logging.INFO)
        self._forget(stream, "client_gone")
        self._tasks[stream].cancel()

    def _expire(self, stream: KeptStream) -> None:
        if stream.reader is None or stream.renewals >= MOST_RENEWALS:
            self._forget(stream, "expired")
            stream.give_up()
        else:
            stream.renewals += 1
            self._start_timer(stream, self.settings.kept_s, self._expire)

    def _forget(self, stream: KeptStream, why: str | None) -> None:
        """`why` None: its client has never had its id, or nobody can ask any more."""
        facts = stream.facts
        self._stop_timer(stream)
        if self._streams.pop(facts.stream_id, None) is None:
            return
        share = self._share(facts.owner)
        share.resize(stream, 0)
        share.running.pop(facts.stream_id, None)
        share.ended.pop(facts.stream_id, None)
        if not share.count:
            del self._shares[facts.owner]
        if why is None:
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


def resumed_by_get(scope: Scope) -> RequestError:
    """The 400 of a POST that would resume a stream: it would begin another one."""
    path = scope.get("root_path", "") + STREAMS_PATH.format(id="<id>")
    return RequestError(
        400,
        f"A stream is not resumed by sending its request again. Send GET {path} with "
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


async def _to_nobody(message: Message) -> None:
    """The client of a stream that another process has begun has no connection to this one."""


def _may_read(owner: str, caller: Caller) -> bool:
    """Whoever has the id, where it was asked for without a key."""
    return owner in (ANONYMOUS.name, caller.flow.name)
