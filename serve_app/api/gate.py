"""The gate in front of a replica's engine: in order of arrival for each flow, but for deadlines,
and fair among flows; before all of them what other replicas have begun. Its state is the one source
of queue depth."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain

from serve_app.api.demand import DemandMeter
from serve_app.api.engine_room import EngineRoom
from serve_app.api.gate_admission import (
    AskingRequest,
    forecast_wait_s,
    keeps_reservations,
    may_pass_others,
)
from serve_app.api.gate_drain import drain_of
from serve_app.api.queue_entry import GateFullError, QueueEntry
from serve_app.core.admission.by_deadline import ShortestAnswer
from serve_app.core.admission.fair_queue import FairQueue
from serve_app.core.admission.fairness import ANONYMOUS, Flow, Presence, Standing
from serve_app.core.admission.flow_history import FlowHistories
from serve_app.core.admission.kv_pool import NO_LIMIT
from serve_app.core.admission.prefill import PrefillAhead
from serve_app.core.admission.queue_drain import (
    Drain,
    ServiceTime,
    batch_slowdown,
    observe_completion,
)
from serve_app.core.admission.slot_lending import Lending, may_lend

# Of the longest wait; shorter forecasts say nothing about those near it.
MIN_FORECAST_FRACTION = 0.1


@dataclass(slots=True)
class GateLimits:
    slots: int
    max_queued_requests: int
    max_wait_s: float
    batch_cost: float = 0.0
    lend_share: float = 0.0
    # What a lender's own requests are to keep.
    slo_ttft_s: float = 2.0
    slo_tpot_s: float = 0.1
    # The engine's KV pool; 0: not known, and not looked at.
    kv_tokens: int = 0
    # Above `slots`, for flows below their share while others have all slots.
    express_slots: int = 0


def new_future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class Gate:
    """Admits requests. All times come from `clock_s` (monotonic seconds)."""

    limits: GateLimits
    service: ServiceTime
    clock_s: Callable[[], float]
    demand: DemandMeter | None = None
    histories: FlowHistories = field(default_factory=FlowHistories)
    # What a request waits for until it has its slots; a simulation has no running loop.
    make_grant: Callable[[], asyncio.Future[None]] = new_future
    # All that have a slot, and those of them that belong to the other tier.
    running_sequences: int = 0
    borrowed_sequences: int = 0
    _running: dict[QueueEntry, None] = field(default_factory=dict)
    _queue: FairQueue[QueueEntry] = field(default_factory=FairQueue[QueueEntry])
    # What waits and was begun by other replicas; in the queue only as it starts.
    _resumed: deque[QueueEntry] = field(default_factory=deque[QueueEntry])
    _arrivals: int = 0
    # None where nothing is known of the engine's speed.
    room: EngineRoom | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.demand is not None:
            limits = self.limits
            self.room = EngineRoom(
                self.demand, self.clock_s, limits.max_wait_s, kv_tokens=limits.kv_tokens
            )

    @property
    def own_part(self) -> float:
        """What part of the sequences that run is the tier's own; 1 where nothing runs."""
        if not self.running_sequences:
            return 1.0
        return 1 - self.borrowed_sequences / self.running_sequences

    @property
    def running_requests(self) -> int:
        return len(self._running)

    @property
    def queued_requests(self) -> int:
        return len(self._queue) + len(self._resumed)

    def presence(self, flow: Flow) -> Presence:
        """What the flow has here, of what nobody else has begun."""
        return self._queue.presence(flow)

    def queued_typical(self, in_engine: int) -> float:
        """What waits here, and so many requests that wait inside the engine, in typical ones."""
        if self.demand is None:
            return 0.0
        waiting = [(entry.sequences, entry.max_new_tokens) for entry in self._waiting()]
        return self.demand.queued_requests(waiting, in_engine)

    def has_room(self, sequences: int, flow: Flow = ANONYMOUS, work: float | None = None) -> bool:
        """Whether a new request of that size would run at once; `work` None: as much as what
        comes."""
        return self._fits(sequences, flow) and keeps_reservations(self, sequences, flow, work)

    def _fits(
        self, sequences: int, flow: Flow = ANONYMOUS, prompt_tokens: float | None = None
    ) -> bool:
        slots, queue, running = self.limits.slots, self._queue, self.running_sequences + sequences
        if self._resumed:
            return False
        fits = running <= slots and (not queue or queue.standing(flow).ahead == 0)
        if not fits and sequences <= self._express_sequences():
            fits = queue.is_below_share(flow, sequences, slots)
        return fits and (self.room is None or self.room.takes(sequences, prompt_tokens))

    def may_lend(self, sequences: int, prompt_tokens: float | None = None) -> Lending:
        """Whether a request of the other tier may run here, at once."""
        ttft_s = tpot_s = 0.0
        if self.room is not None:
            if not self.room.takes(sequences):
                return Lending(False, "its engine has enough to do")
            own_tokens = self._prompt_tokens(prompt_tokens)
            ahead = self.room.ahead(own_tokens, self._queue.prompt_tokens)
            # Of the next request of its own, behind that one.
            ttft_s = ahead.read_s + ahead.own_s + ahead.mean_s
            tpot_s = self.room.lender_token_s(sequences, own_tokens)
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

    def ahead_of(self, entry: QueueEntry) -> int:
        """How many begin before `entry`, as things stand; 0 for the head of the queue."""
        if entry.resumed:
            return self._resumed.index(entry)
        return len(self._resumed) + self._queue.ahead_of(entry)

    def is_head(self, entry: QueueEntry) -> bool:
        """Whether it is the next one to begin."""
        return (self._resumed[0] if self._resumed else self._queue.first()) is entry

    def expected_wait_s(self) -> float:
        """What a request that comes now would wait until its prompt is read."""
        if self._fits(1):
            return 0.0
        slot_free_s = self.drain().start_in_s(self.queued_requests)
        return max(slot_free_s, self.prefill_ahead(0.0, self._queue.prompt_tokens).read_s)

    def drain(self) -> Drain:
        """When the slots become free, and for how long what comes then has them."""
        return drain_of(self, tuple(self._running), tuple(self._waiting()))

    def standing(self, flow: Flow, position: int | None = None) -> Standing:
        """What the flow's next request would find, behind what other replicas have begun too;
        `position`: at that one of its flow."""
        queue, resumed = self._queue, self._resumed
        standing = queue.standing(flow) if position is None else queue.standing(flow, position)
        if not resumed:
            return standing
        return replace(
            standing,
            others_queued=standing.others_queued + len(resumed),
            others_ahead=standing.others_ahead + len(resumed),
            tokens_ahead=standing.tokens_ahead + sum(each.prompt_tokens for each in resumed),
        )

    def prefill_ahead(
        self, prompt_tokens: float, queued_tokens: float, flow_tokens: float = 0.0
    ) -> PrefillAhead:
        """As `EngineRoom.ahead`; nothing where nothing is known of the engine's speed."""
        if self.room is None:
            return PrefillAhead()
        return self.room.ahead(prompt_tokens, queued_tokens, flow_tokens)

    def passed_by(self, flow: Flow, latest_start_s: float) -> tuple[int, Sequence[QueueEntry]]:
        """As `FairQueue.passed_by`."""
        return self._queue.passed_by(flow, latest_start_s)

    def configure(self, limits: GateLimits) -> None:
        """Change the limits in place. What waits keeps its position; what fits now starts."""
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
        forwarded: bool = False,
        prompt_tokens: float | None = None,
        flow: Flow = ANONYMOUS,
        resumed: bool = False,
        shortest: ShortestAnswer | None = None,
        returning: bool | None = None,
    ) -> Iterator[QueueEntry]:
        """Hold an entry, running or waiting (see `QueueEntry.granted`), until the block is left.

        (1) One that was refused before and retries after its Retry-After has a reservation.
        (2) What comes in here for the first time is demand.
        (3) Admit it, or raise GateFullError.
        (4) Queue it, and start what fits.

        `key` identifies the request if it is retried after a refusal; `retried` means that the
        client itself says so; `work` is its fraction of a whole request (`relative_work`);
        `borrowed` marks one of the other tier (`may_lend`), `forwarded` one that came in elsewhere;
        the demand that counts here is of neither. `prompt_tokens` None: a typical prompt. `flow` is
        whose request it is. `resumed`: another replica has begun it, so that it is no demand, and
        is never refused. `shortest`: of one with a deadline, which waits by its latest start.
        `returning`: what `arrives` said of it, where it was asked before.
        """
        counted = returning is not None or borrowed or forwarded or resumed
        if returning is None:
            returning = self._redeems(key, flow, retried=retried)  # (1)
        if self.demand is not None and not (returning or counted):  # (2)
            self.demand.arrived(
                sequences=sequences, max_new_tokens=max_new_tokens, prompt_tokens=prompt_tokens
            )
        prompt_tokens = self._prompt_tokens(prompt_tokens)
        if self.room is not None:
            self.room.typical_limit = max_new_tokens or self.room.typical_limit
            self.room.shared = self._queue.known_flows > 1
        asking = AskingRequest(sequences, key, returning, prompt_tokens, flow, work)
        forecast_s = None  # (3)
        # Whether one that comes from elsewhere runs here was asked before it came.
        let_in = resumed or ((borrowed or forwarded) and self._fits(sequences, flow))
        if not let_in:
            forecast_s = self._admit(asking)
        may_pass = False
        if shortest is not None and not let_in:
            waits = forecast_s is not None
            may_pass = may_pass_others(self, asking, shortest, waits=waits)
        self._arrivals += 1
        entry = QueueEntry(
            self._arrivals,
            sequences,
            self.clock_s(),
            self.make_grant(),
            work,
            borrowed,
            max_new_tokens,
            prompt_tokens,
            forecast_s,
            flow,
            resumed,
            self._work_s(sequences * self.service.mean_s * work, prompt_tokens),
        )
        longest_s = self.limits.max_wait_s if shortest is None else shortest.latest_start_s
        entry.latest_start_s = entry.entered_s + longest_s
        if may_pass:  # (4)
            self._queue.push(entry, may_pass=True)
        else:
            (self._resumed.append if resumed else self._queue.push)(entry)
        self._start_next()
        try:
            yield entry
        finally:
            if entry.released_s is None:
                self._leave(entry)

    def arrives(
        self,
        sequences: int,
        *,
        key: int | None,
        retried: bool,
        max_new_tokens: int,
        prompt_tokens: float,
        flow: Flow,
    ) -> bool:
        """Count a request before it enters, which another replica may run: as demand of this one,
        and its reservation as used. Whether it comes back after a refusal."""
        returning = self._redeems(key, flow, retried=retried)
        if self.demand is not None and not returning:
            self.demand.arrived(
                sequences=sequences, max_new_tokens=max_new_tokens, prompt_tokens=prompt_tokens
            )
        return returning

    def release(self, entry: QueueEntry) -> None:
        """Free the slots of a request whose work in the engine is over, though its client has not
        taken all of the answer yet. Again, or while it waits: nothing."""
        if entry in self._running:
            self._leave(entry)

    @contextmanager
    def step_aside(self, entry: QueueEntry) -> Iterator[None]:
        """While another replica is asked to run what waits at `entry`, it takes no slot here, or
        it would run twice. Afterwards it has its old position again."""
        self._queue.remove(entry)
        try:
            yield
        finally:
            self._queue.put_back(entry)
            self._start_next()

    def prompt_counted(self, entry: QueueEntry, prompt_tokens: int) -> None:
        """The engine has counted the prompt of a request that runs."""
        if self.room is not None:
            self.room.prompt_counted(entry, prompt_tokens)

    def first_token(self, entry: QueueEntry) -> None:
        """The engine has read the prompt, and may be given another. Again, or late: nothing."""
        if self.room is None or not self.room.first_token(entry):
            return
        forecast_s = entry.forecast_s
        if forecast_s is not None and forecast_s > MIN_FORECAST_FRACTION * self.limits.max_wait_s:
            now_s = self.clock_s()
            took_s = now_s - entry.entered_s
            forecasts = self.histories.of(entry.flow).forecasts
            forecasts.observe(now_s=now_s, forecast_s=forecast_s, took_s=took_s)
        self._start_next()

    def observe_service(self, entry: QueueEntry) -> None:
        """Learn from a request that ran to its end; aborted ones say nothing about the drain, and
        those of the other tier nothing about this one's."""
        if entry.started_s is None or entry.borrowed:
            return
        if self.room is not None:
            self.room.observe_service(entry)
        running = (entry.running_at_start + self.running_sequences) / 2
        slowdown = batch_slowdown(self.limits.batch_cost, running, self.limits.slots)
        ended_s = self.clock_s() if entry.released_s is None else entry.released_s
        ran_s = ended_s - entry.started_s
        self.service = observe_completion(self.service, ran_s / entry.work / slowdown)

    def withdraw(self, refused: GateFullError) -> None:
        """Forget the reservation of a refused request that another replica ran after all."""
        self.histories.of(refused.flow).reservations.withdraw(refused.key, refused.due_s)

    def _redeems(self, key: int | None, flow: Flow, *, retried: bool) -> bool:
        """Whether it comes back after a refusal."""
        if (history := self.histories.get(flow.name)) is None:
            return False
        return history.reservations.redeem(key, self.clock_s(), retried=retried)

    def _prompt_tokens(self, known: float | None) -> float:
        if known is not None or self.demand is None:
            return known or 0.0
        return self.demand.lengths.prompt_tokens

    def _work_s(self, slots_held_s: float, prompt_tokens: float) -> float:
        """Seconds of the GPU: its prefill, and of the time in which it holds slots its part of what
        others' prefill leaves for decoding."""
        decode_s = slots_held_s / max(1, self.limits.slots)
        if self.room is None:
            return decode_s
        return self.room.prefill_s(prompt_tokens) + decode_s * self.room.decode_fraction()

    def _admit(self, asking: AskingRequest) -> float | None:
        """The forecast wait for the first token of one that waits. Raises GateFullError."""
        history, reserved = self.histories.get(asking.flow.name), 0
        if history is not None:
            reserved = history.reservations.outstanding(self.clock_s())
        # `admit` would say so too; the drain of all that runs is not worth estimating for it.
        if self._fits(asking.sequences, asking.flow, asking.prompt_tokens) and (
            asking.returning or not reserved
        ):
            return None
        return forecast_wait_s(self, asking, reserved)

    def _start_next(self) -> None:
        while (entry := self._next()) is not None:
            if entry.resumed:
                self._resumed.popleft()
                self._queue.push(entry)
            self._queue.start(entry)
            entry.started_s = now_s = self.clock_s()
            entry.wait_s = now_s - entry.entered_s
            self._count_running(entry, 1)
            self._running[entry] = None
            entry.running_at_start = self.running_sequences
            if self.room is not None:
                self.room.begin(entry)
            entry.granted.set_result(None)

    def _next(self) -> QueueEntry | None:
        """Who begins now, if anybody does."""
        head = entry = self._resumed[0] if self._resumed else self._queue.first()
        if head is None:
            return None
        # A request that is larger than lowered limits runs alone instead of never.
        if self._running and self.running_sequences + head.sequences > self.limits.slots:
            most = 0 if self._resumed else self._express_sequences()
            entry = self._queue.first_below_share(self.limits.slots, most) if most > 0 else None
        if entry is None or (
            self.room
            and not self.room.takes(
                entry.sequences,
                entry.prompt_tokens,
                entry.max_new_tokens or NO_LIMIT,
                resumed=entry.resumed,
            )
        ):
            return None
        if entry is not head:
            head.overtaken += entry.sequences
        return entry

    def _express_sequences(self) -> int:
        """How many may begin before the head of the queue, which does not fit."""
        head, slots = self._queue.first(), self.limits.slots
        if head is not None and head.overtaken >= slots:
            return 0
        return slots + self.limits.express_slots - self.running_sequences

    def _leave(self, entry: QueueEntry) -> None:
        if entry in self._running:
            del self._running[entry]
            entry.released_s = self.clock_s()
            self._count_running(entry, -1)
            if self.room is not None:
                self.room.end(entry)
            self._queue.end(entry, self._took_s(entry))
        else:
            (self._resumed if entry.resumed else self._queue).remove(entry)
            entry.granted.cancel()
        self._start_next()

    def _waiting(self) -> Iterator[QueueEntry]:
        return chain(self._resumed, self._queue)

    def _took_s(self, entry: QueueEntry) -> float:
        """What it took of the GPU, in the end."""
        assert entry.started_s is not None
        assert entry.released_s is not None
        since_s = entry.started_s if entry.first_token_s is None else entry.first_token_s
        held_s = entry.released_s - since_s
        return self._work_s(entry.sequences * held_s, entry.prompt_tokens)

    def _count_running(self, entry: QueueEntry, sign: int) -> None:
        self.running_sequences += sign * entry.sequences
        if entry.borrowed:
            self.borrowed_sequences += sign * entry.sequences
