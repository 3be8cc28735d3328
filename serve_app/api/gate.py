"""The FIFO gate in front of a replica's engine; its state is the one source of queue depth."""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.api.demand import DemandMeter
from serve_app.api.place import GateLimits, Place, Refused, new_future
from serve_app.api.promises import Promises
from serve_app.core.admission import GateLoad, Verdict, admit
from serve_app.core.drain import (
    Drain,
    ServiceTime,
    batch_slowdown,
    estimate_drain,
    observe_completion,
)
from serve_app.core.lending import Lending, may_lend


@dataclass(slots=True)
class Gate:
    """Admits requests in order of arrival. All times come from `clock_s` (monotonic seconds)."""

    limits: GateLimits
    service: ServiceTime
    clock_s: Callable[[], float]
    demand: DemandMeter | None = None
    promises: Promises = field(default_factory=Promises)
    # What tells a request that it holds its slots; a simulation has no running loop.
    make_grant: Callable[[], asyncio.Future[None]] = new_future
    # All that hold a slot, and those of them that belong to the other tier.
    running_sequences: int = 0
    borrowed_sequences: int = 0
    _running: dict[Place, None] = field(default_factory=dict)
    _line: deque[Place] = field(default_factory=deque)
    _arrivals: int = 0

    @property
    def running_requests(self) -> int:
        return len(self._running)

    @property
    def queued_requests(self) -> int:
        return len(self._line)

    def queued_s(self, in_engine: int) -> float:
        """Work of what waits here, and of so many requests that wait inside the engine, in seconds
        of this replica with all slots busy."""
        if self.demand is None:
            return 0.0
        waiting = [(place.sequences, place.max_new_tokens) for place in self._line]
        return self.demand.queued_s(waiting, in_engine)

    def has_room(self, sequences: int) -> bool:
        """Whether a request of that size would run at once."""
        return not self._line and self.running_sequences + sequences <= self.limits.slots

    def may_lend(self, sequences: int) -> Lending:
        """Whether a request of the other tier may run here, at once."""
        return may_lend(
            slots=self.limits.slots,
            running=self.running_sequences,
            borrowed=self.borrowed_sequences,
            queued=self.queued_requests,
            sequences=sequences,
            lend_share=self.limits.lend_share,
        )

    def ahead_of(self, place: Place) -> int:
        """How many wait before `place`; 0 for the head of the line."""
        return self._line.index(place)

    def expected_wait_s(self) -> float:
        """What a request that comes now would wait."""
        return 0.0 if self.has_room(1) else self.drain().start_in_s(self.queued_requests)

    def drain(self) -> Drain:
        now_s = self.clock_s()
        running = self._running
        ages = [now_s - place.started_s for place in running if place.started_s is not None]
        if self.running_sequences != len(ages):
            sequences = (place.sequences for place in running)
            ages = [age for age, count in zip(ages, sequences, strict=True) for _ in range(count)]
        return estimate_drain(self._expected_service(), tuple(ages), self.limits.slots)

    def configure(self, limits: GateLimits) -> None:
        """Change the limits in place. What waits keeps its place; what fits now starts."""
        self.limits = limits
        if self.demand is not None:
            self.demand.slots = limits.slots
        self._start_next()

    @contextmanager
    def enter(
        self,
        sequences: int,
        key: int | None = None,
        retried: bool = False,
        work: float = 1.0,
        borrowed: bool = False,
        max_new_tokens: int = 0,
        relayed: bool = False,
    ) -> Iterator[Place]:
        """Hold a place, running or waiting (see `Place.granted`), until the block is left.

        `key` identifies the request if it comes back after a refusal; `retried` means that the
        client itself says so; `work` is its share of a whole request (`relative_work`);
        `borrowed` marks one of the other tier (`may_lend`), `relayed` one that came in elsewhere;
        the demand that counts here is of neither. Raises Refused.
        """
        returning = self.promises.redeem(key, self.clock_s(), retried=retried)
        if self.demand is not None and not (returning or borrowed or relayed):
            self.demand.arrived(sequences=sequences, max_new_tokens=max_new_tokens)
        self._admit(sequences, key, returning)
        self._arrivals += 1
        place = Place(
            self._arrivals,
            sequences,
            self.clock_s(),
            self.make_grant(),
            work,
            borrowed,
            max_new_tokens,
        )
        self._line.append(place)
        self._start_next()
        try:
            yield place
        finally:
            if place.released_s is None:
                self._leave(place)

    def release(self, place: Place) -> None:
        """Free the slots of a request whose work in the engine is over, though its client has not
        taken all of the answer yet. Again, or while it waits: nothing."""
        if place in self._running:
            self._leave(place)

    @contextmanager
    def step_aside(self, place: Place) -> Iterator[None]:
        """While another replica is asked to run what waits at `place`, it takes no slot here, or
        it would run twice. Afterwards it has its old position again."""
        self._line.remove(place)
        try:
            yield
        finally:
            insort(self._line, place, key=lambda waiting: waiting.arrival)
            self._start_next()

    def withdraw(self, refused: Refused) -> None:
        """Forget the promise of a refused request that another replica ran after all."""
        self.promises.withdraw(refused.key, refused.due_s)

    def _expected_service(self) -> ServiceTime:
        """The service time of what runs and waits now."""
        works = [place.work for place in (*self._running, *self._line)]
        mean_work = sum(works) / len(works) if works else 1.0
        return self.service.times(mean_work)

    def _admit(self, sequences: int, key: int | None, returning: bool) -> None:
        now_s = self.clock_s()
        # `admit` would say so too; the drain of all that runs is not worth estimating for it.
        if self.has_room(sequences):
            return
        admission = admit(
            GateLoad(
                slots=self.limits.slots,
                running=self.running_sequences,
                queued=self.queued_requests,
                promised=self.promises.outstanding(now_s),
            ),
            self.drain(),
            sequences=sequences,
            returning=returning,
            max_queued_requests=self.limits.max_queued_requests,
            max_wait_s=self.limits.max_wait_s,
        )
        if admission.verdict is Verdict.REFUSE:
            due_s = now_s + admission.retry_after_s
            self.promises.add(key, due_s)
            raise Refused(admission, key, due_s)

    def _start_next(self) -> None:
        free = self.limits.slots - self.running_sequences
        while self._line:
            place = self._line[0]
            # A request that is larger than lowered limits runs alone instead of never.
            if place.sequences > free and self._running:
                return
            self._line.popleft()
            place.started_s = self.clock_s()
            self._count_running(place, 1)
            self._running[place] = None
            place.running_at_start = self.running_sequences
            free -= place.sequences
            place.granted.set_result(None)

    def _leave(self, place: Place) -> None:
        if place in self._running:
            del self._running[place]
            place.released_s = self.clock_s()
            self._count_running(place, -1)
        else:
            self._line.remove(place)
            place.granted.cancel()
        self._start_next()

    def _count_running(self, place: Place, sign: int) -> None:
        self.running_sequences += sign * place.sequences
        if place.borrowed:
            self.borrowed_sequences += sign * place.sequences

    def observe_service(self, place: Place) -> None:
        """Learn from a request that ran to its end; aborted ones say nothing about the drain, and
        those of the other tier nothing about this one's."""
        if place.started_s is None or place.borrowed:
            return
        running = (place.running_at_start + self.running_sequences) / 2
        slowdown = batch_slowdown(self.limits.batch_cost, running, self.limits.slots)
        ended_s = self.clock_s() if place.released_s is None else place.released_s
        held_s = ended_s - place.started_s
        self.service = observe_completion(self.service, held_s / place.work / slowdown)
