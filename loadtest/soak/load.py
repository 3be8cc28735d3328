"""Sends a soak's mixed load without a pause, whatever becomes of earlier requests."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from loadtest.client.chat import Client
from loadtest.client.record import Outcome, Record
from loadtest.load.arrivals import lengths, times
from loadtest.load.prompts import PromptWriter
from loadtest.load.targets import Target
from loadtest.scenario import Poisson, Scenario
from loadtest.soak.traffic import BY_NAME, KINDS, Kind, behave, body_of, kind_of

# Of a closed loop's client that was not served.
PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Ended:
    """A request and what went wrong with it, if anything."""

    kind: Kind
    record: Record
    wrong: str | None


@dataclass(slots=True)
class Traffic:
    """`on_end` gets each request when it has ended. `in_flight` counts, by tier, what the clients
    have open."""

    scenario: Scenario
    targets: Mapping[str, Target]
    client: Client
    on_end: Callable[[Ended], None]
    in_flight: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    _open: set[asyncio.Task[None]] = field(default_factory=set)
    _lengths: dict[int, Iterator[tuple[int, int]]] = field(default_factory=dict)
    _writer: PromptWriter = field(init=False)

    def __post_init__(self) -> None:
        self._writer = PromptWriter(self.scenario.seed, fresh=True)

    @property
    def tiers(self) -> list[str]:
        return list(self.targets)

    @contextlib.asynccontextmanager
    async def running(self, rates_per_s: Mapping[str, float]) -> AsyncIterator[None]:
        """Requests of every kind come, by tier at these rates, while the block runs."""
        tasks = [
            asyncio.create_task(self._arrive(tier, kind, rate * kind.fraction))
            for tier, rate in rates_per_s.items()
            for kind in KINDS
            if kind.fraction
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def measure_capacity(self, clients: int, seconds: float) -> dict[str, float]:
        """Requests a second of each tier with so many clients in each that ask again and again,
        all tiers at once."""
        began_s = self.client.clock()
        ended = Counter[str]()

        async def ask_on(tier: str, number: int) -> None:
            rng = random.Random(f"{self.scenario.seed}/{tier}/{number}")
            fractions = [kind.fraction for kind in KINDS]
            while self.client.clock() < began_s + seconds:
                (kind,) = rng.choices(KINDS, fractions)
                record = await self.ask(tier, kind)
                if record.outcome in (Outcome.SERVED, Outcome.UNFINISHED) or kind.wrong:
                    ended[tier] += 1
                else:
                    await asyncio.sleep(PAUSE_S)

        loops = [ask_on(tier, number) for tier in self.tiers for number in range(clients)]
        await asyncio.gather(*loops)
        took_s = self.client.clock() - began_s
        return {tier: ended[tier] / took_s for tier in self.tiers}

    def start(self, tier: str, name: str) -> asyncio.Task[None]:
        """A request of this kind, at once; whoever wants may wait for it."""
        task = asyncio.create_task(self._ask(tier, BY_NAME[name]))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return task

    async def ask(self, tier: str, kind: Kind) -> Record:
        """Send one request; how it went, when it has ended."""
        number = [load.tier for load in self.scenario.loads].index(tier) + KINDS.index(kind)
        sizes = self._lengths.setdefault(number, lengths(self.scenario, number))
        target = self.targets[tier]
        prompt, answer, clipped = target.fit(*next(sizes))
        now_s = self.client.clock()
        record = Record(self.sent, number, tier, now_s, prompt, answer, clipped=clipped)
        self.sent += 1
        body = body_of(kind, target, self._writer, record.number, (prompt, answer))
        self.in_flight[tier] += 1
        try:
            wrong = await behave(self.client, target, kind, body, record)
        finally:
            self.in_flight[tier] -= 1
        self.on_end(Ended(kind_of(number), record, wrong))
        return record

    async def drain(self, within_s: float) -> int:
        """Wait for what is open; how many have not ended and are given up."""
        if self._open:
            await asyncio.wait(set(self._open), timeout=within_s)
        left = list(self._open)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)

    async def _ask(self, tier: str, kind: Kind) -> None:
        await self.ask(tier, kind)

    async def _arrive(self, tier: str, kind: Kind, rate_per_s: float) -> None:
        number = [load.tier for load in self.scenario.loads].index(tier) + KINDS.index(kind)
        rng = random.Random(f"{self.scenario.seed}/{number}/soak")
        began_s = self.client.clock()
        for at_s in times(Poisson(rate=rate_per_s), rng, None):
            await asyncio.sleep(max(0.0, began_s + at_s - self.client.clock()))
            self.start(tier, kind.name)
