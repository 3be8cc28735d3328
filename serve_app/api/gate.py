"""The FIFO gate in front of a replica's engine; its state is the one source of queue depth."""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from serve_app.api.promises import Promises
from serve_app.core.admission import Admission, GateLoad, Verdict, admit
from serve_app.core.drain import (
    Drain,
    ServiceTime,
    batch_slowdown,
    estimate_drain,
    observe_completion,
)


class Refused(Exception):
    """The gate has no place; `admission` says why and when to come back."""

    def __init__(self, admission: Admission, key: int | None, due_s: float) -> None:
        super().__init__(admission.reason)
        self.admission = admission
        self.key = key
        self.due_s = due_s


@dataclass(slots=True, eq=False)
class Place:
    """One request at the gate, by order of arrival. `granted` is done once its slots are held."""

    arrival: int
    sequences: int
    entered_s: float
    granted: asyncio.Future[None]
    work: float
    started_s: float | None = None
    running_at_start: int = 0

    @property
    def wait_s(self) -> float:
        return 0.0 if self.started_s is None else self.started_s - self.entered_s


@dataclass(slots=True)
class GateLimits:
    slots: int
    max_queued_requests: int
    max_wait_s: float
    batch_cost: float = 0.0


@dataclass(slots=True)
class Gate:
    """Admits requests in order of arrival. All times come from `clock_s` (monotonic seconds)."""

    limits: GateLimits
    service: ServiceTime
    clock_s: Callable[[], float]
    promises: Promises = field(default_factory=Promises)
    _running: dict[Place, None] = field(default_factory=dict)
    _line: deque[Place] = field(default_factory=deque)
    _arrivals: int = 0

    @property
    def running_sequences(self) -> int:
        return sum(place.sequences for place in self._running)

    @property
    def running_requests(self) -> int:
        return len(self._running)

    @property
    def queued_requests(self) -> int:
        return len(self._line)

    def has_room(self, sequences: int) -> bool:
        """Whether a request of that size would run at once."""
        return not self._line and self.running_sequences + sequences <= self.limits.slots

    def ahead_of(self, place: Place) -> int:
        """How many wait before `place`; 0 for the head of the line."""
        return self._line.index(place)

    def expected_wait_s(self) -> float:
        """What a request that comes now would wait."""
        return 0.0 if self.has_room(1) else self.drain().start_in_s(self.queued_requests)

    def drain(self) -> Drain:
        now_s = self.clock_s()
        ages = [
            now_s - place.started_s
            for place in self._running
            if place.started_s is not None
            for _ in range(place.sequences)
        ]
        return estimate_drain(self._expected_service(), tuple(ages), self.limits.slots)

    def configure(self, limits: GateLimits) -> None:
        """Change the limits in place. What waits keeps its place; what fits now starts."""
        self.limits = limits
        self._start_next()

    @contextmanager
    def enter(
        self,
        sequences: int,
        key: int | None = None,
        retried: bool = False,
        work: float = 1.0,
    ) -> Iterator[Place]:
        """Hold a place, running or waiting (see `Place.granted`), until the block is left.

        `key` identifies the request if it comes back after a refusal; `retried` means that the
        client itself says so; `work` is its share of a whole request (`relative_work`). Raises
        Refused.
        """
        self._admit(sequences, key, retried)
        self._arrivals += 1
        place = Place(
            self._arrivals,
            sequences,
            self.clock_s(),
            asyncio.get_running_loop().create_future(),
            work,
        )
        self._line.append(place)
        self._start_next()
        try:
            yield place
        finally:
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
        return replace(self.service, mean_s=self.service.mean_s * mean_work)

    def _admit(self, sequences: int, key: int | None, retried: bool) -> None:
        now_s = self.clock_s()
        returning = self.promises.redeem(key, now_s, retried=retried)
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
            self._running[place] = None
            place.running_at_start = self.running_sequences
            free -= place.sequences
            place.granted.set_result(None)

    def _leave(self, place: Place) -> None:
        if place in self._running:
            del self._running[place]
        else:
            self._line.remove(place)
            place.granted.cancel()
        self._start_next()

    def observe_service(self, place: Place) -> None:
        """Learn from a request that ran to its end; aborted ones say nothing about the drain."""
        if place.started_s is None:
            return
        running = (place.running_at_start + self.running_sequences) / 2
        slowdown = batch_slowdown(self.limits.batch_cost, running, self.limits.slots)
        held_s = self.clock_s() - place.started_s
        self.service = observe_completion(self.service, held_s / place.work / slowdown)
