"""The FIFO gate in front of a replica's engine; its state is the one source of queue depth."""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.api.demand import DemandMeter
from serve_app.api.engine_room import EngineRoom
from serve_app.api.forecasts import Forecasts
from serve_app.api.place import GateLimits, Place, Refused, new_future
from serve_app.api.promises import Promises
from serve_app.core.admission.admission import GateLoad, Verdict, admit
from serve_app.core.admission.prefill import PrefillAhead
from serve_app.core.admission.queue_drain import (
    Drain,
    ServiceTime,
    batch_slowdown,
    estimate_drain,
    observe_completion,
)
from serve_app.core.admission.slot_lending import Lending, may_lend

# Of the longest wait; shorter forecasts say nothing about those near it.
TOLD_SHARE = 0.1


@dataclass(slots=True)
class Gate:
    """Admits requests in order of arrival. All times come from `clock_s` (monotonic seconds)."""

    limits: GateLimits
    service: ServiceTime
    clock_s: Callable[[], float]
    demand: DemandMeter | None = None
    promises: Promises = field(default_factory=Promises)
    forecasts: Forecasts = field(default_factory=Forecasts)
    # What tells a request that it holds its slots; a simulation has no running loop.
    make_grant: Callable[[], asyncio.Future[None]] = new_future
    # All that hold a slot, and those of them that belong to the other tier.
    running_sequences: int = 0
    borrowed_sequences: int = 0
    _running: dict[Place, None] = field(default_factory=dict)
    _line: deque[Place] = field(default_factory=deque)
    _arrivals: int = 0
    # Of the prompts that wait here.
    _queued_tokens: float = 0.0
    # None where nothing is known of the engine's speed.
    room: EngineRoom | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.demand is not None:
            limits = self.limits
            self.room = EngineRoom(
                self.demand, self.clock_s, limits.max_wait_s, kv_tokens=limits.kv_tokens
            )

    @property
    def running_requests(self) -> int:
        return len(self._running)

    @property
    def queued_requests(self) -> int:
        return len(self._line)

    def queued_typical(self, in_engine: int) -> float:
        """What waits here, and so many requests that wait inside the engine, in typical ones."""
        if self.demand is None:
            return 0.0
        waiting = [(place.sequences, place.max_new_tokens) for place in self._line]
        return self.demand.queued_requests(waiting, in_engine)

    def has_room(self, sequences: int) -> bool:
        """Whether a request of that size would run at once."""
        return (
            not self._line
            and self.running_sequences + sequences <= self.limits.slots
            and (self.room is None or self.room.takes(sequences))
        )

    def may_lend(self, sequences: int, prompt_tokens: float | None = None) -> Lending:
        """Whether a request of the other tier may run here, at once."""
        ttft_s = tpot_s = 0.0
        if self.room is not None:
            if not self.room.takes(sequences):
                return Lending(False, "its engine has enough to do")
            ahead = self._prefill_ahead(self._prompt_tokens(prompt_tokens))
            # Of the next request of its own, behind that one.
            ttft_s = ahead.read_s + ahead.own_s + ahead.mean_s
            tpot_s = self.room.lender_token_s(sequences, self._prompt_tokens(prompt_tokens))
        return may_lend(
            slots=self.limits.slots,
            running=self.running_sequences,
            borrowed=self.borrowed_sequences,
            queued=self.queued_requests,
            sequences=sequences,
            lend_share=self.limits.lend_share,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            slo_ttft_s=self.limits.slo_ttft_s,
            slo_tpot_s=self.limits.slo_tpot_s,
        )

    def ahead_of(self, place: Place) -> int:
        """How many wait before `place`; 0 for the head of the line."""
        return self._line.index(place)

    def expected_wait_s(self) -> float:
        """What a request that comes now would wait until its prompt is read."""
        if self.has_room(1):
            return 0.0
        slot_free_s = self.drain().start_in_s(self.queued_requests)
        return max(slot_free_s, self._prefill_ahead(0.0).read_s)

    def drain(self) -> Drain:
        now_s = self.clock_s()
        running = self._running
        ages = [now_s - place.started_s for place in running if place.started_s is not None]
        if self.running_sequences != len(ages):
            sequences = (place.sequences for place in running)
            ages = [age for age, count in zip(ages, sequences, strict=True) for _ in range(count)]
        slots = self.limits.slots if self.room is None else self.room.slots(self.limits.slots)
        return estimate_drain(self._expected_service(), tuple(ages), slots)

    def configure(self, limits: GateLimits) -> None:
        """Change the limits in place. What waits keeps its place; what fits now starts."""
        self.limits = limits
        if self.demand is not None:
            self.demand.slots = limits.slots
        if self.room is not None:
            self.room.max_wait_s, self.room.kv_tokens = limits.max_wait_s, limits.kv_tokens
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
        prompt_tokens: float | None = None,
    ) -> Iterator[Place]:
        """Hold a place, running or waiting (see `Place.granted`), until the block is left.

        `key` identifies the request if it comes back after a refusal; `retried` means that the
        client itself says so; `work` is its share of a whole request (`relative_work`);
        `borrowed` marks one of the other tier (`may_lend`), `relayed` one that came in elsewhere;
        the demand that counts here is of neither. `prompt_tokens` None: a typical prompt. Raises
        Refused.
        """
        returning = self.promises.redeem(key, self.clock_s(), retried=retried)
        if self.demand is not None and not (returning or borrowed or relayed):
            self.demand.arrived(
                sequences=sequences, max_new_tokens=max_new_tokens, prompt_tokens=prompt_tokens
            )
        prompt_tokens = self._prompt_tokens(prompt_tokens)
        if self.room is not None and max_new_tokens:
            self.room.typical_limit = max_new_tokens
        forecast_s = self._admit(sequences, key, returning, prompt_tokens)
        self._arrivals += 1
        place = Place(
            self._arrivals,
            sequences,
            self.clock_s(),
            self.make_grant(),
            work,
            borrowed,
            max_new_tokens,
            prompt_tokens,
            forecast_s,
        )
        self._line.append(place)
        self._queued_tokens += prompt_tokens
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
        self._queued_tokens -= place.prompt_tokens
        try:
            yield
        finally:
            insort(self._line, place, key=lambda waiting: waiting.arrival)
            self._queued_tokens += place.prompt_tokens
            self._start_next()

    def prompt_counted(self, place: Place, prompt_tokens: int) -> None:
        """The engine has counted the prompt of a request that runs."""
        if self.room is not None:
            self.room.prompt_counted(place, prompt_tokens)

    def first_token(self, place: Place) -> None:
        """The engine has read the prompt, and may be given another. Again, or late: nothing."""
        if self.room is None or not self.room.first_token(place):
            return
        forecast_s = place.forecast_s
        if forecast_s is not None and forecast_s > TOLD_SHARE * self.limits.max_wait_s:
            now_s = self.clock_s()
            took_s = now_s - place.entered_s
            self.forecasts.observe(now_s=now_s, forecast_s=forecast_s, took_s=took_s)
        self._start_next()

    def withdraw(self, refused: Refused) -> None:
        """Forget the promise of a refused request that another replica ran after all."""
        self.promises.withdraw(refused.key, refused.due_s)

    def _expected_service(self) -> ServiceTime:
        """The service time of what runs and waits now."""
        works = [place.work for place in (*self._running, *self._line)]
        mean_work = sum(works) / len(works) if works else 1.0
        service = self.service
        if self.room is not None and self.demand is not None and not service.measured:
            # The engine's speed is known before the lengths of its answers are.
            token_s = self.room.stream_token_s(self.limits.slots - self.running_sequences)
            service = ServiceTime(self.demand.lengths.expected_new_tokens * token_s)
        return service.times(mean_work)

    def _prompt_tokens(self, known: float | None) -> float:
        if known is not None or self.demand is None:
            return known or 0.0
        return self.demand.lengths.prompt_tokens

    def _prefill_ahead(self, prompt_tokens: float) -> PrefillAhead:
        if self.room is None:
            return PrefillAhead()
        return self.room.ahead(prompt_tokens, self._queued_tokens)

    def _admit(
        self, sequences: int, key: int | None, returning: bool, prompt_tokens: float
    ) -> float | None:
        """The wait for its first token that is forecast, of one that waits. Raises Refused."""
        now_s = self.clock_s()
        # `admit` would say so too; the drain of all that runs is not worth estimating for it.
        if self.has_room(sequences):
            return None
        admission = admit(
            GateLoad(
                slots=self.limits.slots,
                running=self.running_sequences,
                queued=self.queued_requests,
                reserved=self.promises.outstanding(now_s),
            ),
            self.drain(),
            self._prefill_ahead(prompt_tokens),
            sequences=sequences,
            returning=returning,
            max_queued_requests=self.limits.max_queued_requests,
            max_wait_s=self.limits.max_wait_s,
            margin=self.forecasts.margin(now_s),
        )
        if admission.verdict is Verdict.REFUSE:
            due_s = now_s + admission.retry_after_s
            self.promises.add(key, due_s)
            raise Refused(admission, key, due_s)
        return admission.wait_s

    def _start_next(self) -> None:
        free = self.limits.slots - self.running_sequences
        while self._line:
            place = self._line[0]
            # A request that is larger than lowered limits runs alone instead of never.
            if place.sequences > free and self._running:
                return
            if self.room is not None and not self.room.takes(place.sequences, place):
                return
            self._line.popleft()
            self._queued_tokens -= place.prompt_tokens
            place.started_s = self.clock_s()
            self._count_running(place, 1)
            self._running[place] = None
            place.running_at_start = self.running_sequences
            if self.room is not None:
                self.room.begin(place)
            free -= place.sequences
            place.granted.set_result(None)

    def _leave(self, place: Place) -> None:
        if place in self._running:
            del self._running[place]
            place.released_s = self.clock_s()
            self._count_running(place, -1)
            if self.room is not None:
                self.room.end(place)
        else:
            self._line.remove(place)
            self._queued_tokens -= place.prompt_tokens
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
