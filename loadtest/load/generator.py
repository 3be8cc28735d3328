"""Sends requests when they are due, whether or not earlier ones have ended, or in closed loops."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import aiohttp

from loadtest.client.chat import Client, RunClock, chat_body, wait_for_retry
from loadtest.client.record import Outcome, Record
from loadtest.load.arrivals import Due, lengths, schedule
from loadtest.load.prompts import PromptWriter
from loadtest.load.targets import Target
from loadtest.scenario import Closed, Scenario

# A refused client of a closed loop would else ask again at once, and without end.
REFUSED_PAUSE_S = 1.0
# What a client waits that got no Retry-After.
DEFAULT_RETRY_S = 1.0


@dataclass(slots=True)
class Generator:
    """`on_end` gets each request when it has ended; `active` are those that have not."""

    scenario: Scenario
    targets: Mapping[str, Target]
    on_end: Callable[[Record], None]
    clock: RunClock = field(default_factory=RunClock)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    active: dict[int, Record] = field(default_factory=dict)
    sent: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _error: BaseException | None = None

    async def run(self, session: aiohttp.ClientSession, dues: list[Due] | None = None) -> None:
        """Until all has ended, the drain is over, or it was stopped."""
        dues = schedule(self.scenario) if dues is None else dues
        writer = PromptWriter(self.scenario.seed, fresh=self.scenario.fresh_prompts)
        client = Client(session, self.clock)
        stop = asyncio.create_task(self.stopped.wait())
        sender = asyncio.create_task(self._send_all(dues, client, writer))
        loops = [
            asyncio.create_task(self._closed_client(number, sizes, remaining, client, writer))
            for number, sizes, remaining in self._closed_loops()
        ]
        sending = asyncio.gather(sender, *loops)
        try:
            await asyncio.wait(
                {sending, stop}, timeout=self._limit_s(), return_when=asyncio.FIRST_COMPLETED
            )
            if sending.done():
                sending.result()
            await self._drain(stop)
            if self._error is not None:
                raise self._error
        finally:
            left_over = [sending, sender, stop, *loops, *self._tasks]
            for task in left_over:
                task.cancel()
            await asyncio.gather(*left_over, return_exceptions=True)

    def _limit_s(self) -> float | None:
        """The end of closed loops that end by time, with their drain; else none is needed or
        known. Arrivals end by themselves."""
        closed = [load for load in self.scenario.loads if isinstance(load.arrivals, Closed)]
        ends = [(load.start, self.scenario.length_s(load)) for load in closed]
        if not ends or any(length_s is None for _, length_s in ends):
            return None
        all_loads = [(load.start, self.scenario.length_s(load)) for load in self.scenario.loads]
        if any(length_s is None for _, length_s in all_loads):
            return None
        last_s = max(start_s + (length_s or 0.0) for start_s, length_s in all_loads)
        return last_s + self.scenario.drain

    async def _drain(self, stop: asyncio.Task[bool]) -> None:
        if self._tasks and not stop.done():
            ended = asyncio.create_task(asyncio.wait(set(self._tasks)))
            await asyncio.wait(
                {ended, stop},
                timeout=self.scenario.drain,
                return_when=asyncio.FIRST_COMPLETED,
            )
            ended.cancel()

    async def _send_all(self, dues: list[Due], client: Client, writer: PromptWriter) -> None:
        for due in dues:
            wait_s = due.due_s - self.clock()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            task = asyncio.create_task(self._request(self._record(due), client, writer))
            self._tasks.add(task)
            task.add_done_callback(self._forget)
            if wait_s <= 0:
                await asyncio.sleep(0)  # behind its time: still let the answers be read

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = error
            self.stopped.set()

    def _closed_loops(self) -> Iterator[tuple[int, Iterator[tuple[int, int]], "_Remaining"]]:
        """Once for each client; the clients of a load share its lengths and its count."""
        for number, load in enumerate(self.scenario.loads):
            if isinstance(load.arrivals, Closed):
                sizes, remaining = lengths(self.scenario, number), _Remaining(load.requests)
                for _ in range(load.arrivals.concurrency):
                    yield number, sizes, remaining

    async def _closed_client(
        self,
        number: int,
        sizes: Iterator[tuple[int, int]],
        remaining: "_Remaining",
        client: Client,
        writer: PromptWriter,
    ) -> None:
        load = self.scenario.loads[number]
        length_s = self.scenario.length_s(load)
        await asyncio.sleep(max(0.0, load.start - self.clock()))
        while length_s is None or self.clock() < load.start + length_s:
            if not remaining.take():
                return
            record = self._record(Due(number, load.tier, self.clock(), *next(sizes)))
            await self._request(record, client, writer)
            pause_s = getattr(load.arrivals, "pause", 0.0)
            if record.outcome is not Outcome.SERVED:
                pause_s = max(pause_s, REFUSED_PAUSE_S)
            if pause_s:
                await asyncio.sleep(pause_s)

    def _record(self, due: Due) -> Record:
        prompt, answer, clipped = self.targets[due.tier].fit(due.input_tokens, due.output_tokens)
        record = Record(self.sent, due.load, due.tier, due.due_s, prompt, answer, clipped=clipped)
        record.counts = due.due_s >= self.scenario.warm_up
        self.sent += 1
        return record

    async def _request(self, record: Record, client: Client, writer: PromptWriter) -> None:
        """Ask, and retry as often as the scenario allows if refused; always with the same prompt,
        by which a server can recognise the retry."""
        target = self.targets[record.tier]
        body = chat_body(
            target.model,
            writer.write(record.number, record.input_tokens_asked),
            output_tokens=record.output_tokens_asked,
            ignore_eos=self.scenario.ignore_eos,
        )
        self.active[record.number] = record
        try:
            for left in range(self.scenario.retries, -1, -1):
                refusal = await client.stream(target.url, body, record)
                if refusal is None or not left:
                    return
                wait_s = refusal.retry_after_s
                await wait_for_retry(DEFAULT_RETRY_S if wait_s is None else wait_s)
        except asyncio.CancelledError:
            record.outcome, record.reason = Outcome.UNFINISHED, None
            raise
        finally:
            del self.active[record.number]
            self.on_end(record)


@dataclass(slots=True)
class _Remaining:
    """Requests that a closed load may still send; None is no limit."""

    count: int | None

    def take(self) -> bool:
        if self.count is None:
            return True
        self.count -= 1
        return self.count >= 0
