"""A simulated replica: production's gate and demand meter in front of a simulated engine."""

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from typing import cast

from loadtest.simulation.engine import SimulatedEngine
from loadtest.simulation.setup import GpuPlan, TierPlan
from loadtest.simulation.sim_request import SimRequest
from serve_app.api.demand import DemandMeter
from serve_app.api.gate import Gate
from serve_app.core.admission.fair_queue import relative_work
from serve_app.core.scaling.step_time import StepModel
from serve_app.core.scaling.tier_demand import ReplicaLoad
from serve_app.core.scaling.workload import LengthFigures, observe_lengths
from serve_app.core.tiers import Tier

REFRESH_S = 5.0
# Of what a part of a replica reports, what is that part of a whole one's.
PART_OF_A_REPLICA = (
    "slow_rps",
    "quick_rps",
    "slow_prompt_tokens_per_s",
    "quick_prompt_tokens_per_s",
)


@dataclass(slots=True)
class Clock:
    """The simulation's time, as production's parts read it."""

    now_s: float = 0.0

    def read_s(self) -> float:
        return self.now_s


@dataclass(slots=True)
class PatientMeter(DemandMeter):
    """Production's meter, which looks at what it has learnt of lengths and speed every five seconds
    and not with each request: summing up 256 lengths is most of its work."""

    _ended_prompts: list[int] = field(default_factory=list)
    _ended_answers: list[int] = field(default_factory=list)
    _parts: dict[int, float] = field(default_factory=dict)
    _own_prompts: list[int] = field(default_factory=list)
    _own_answers: list[int] = field(default_factory=list)
    _lengths: LengthFigures | None = None
    _refreshed_s: float = 0.0

    def finished(self, *, prompt_tokens: int, new_tokens: int) -> None:
        self._ended_prompts.append(prompt_tokens)
        self._ended_answers.append(new_tokens)

    def answered(self, *, prompt_tokens: int, new_tokens: int, sequences: int = 1) -> None:
        self.ended += sequences
        self.ended_tokens += sequences * new_tokens
        self._own_prompts.append(prompt_tokens)
        self._own_answers.extend([new_tokens] * sequences)

    def resize(self, derived: StepModel) -> None:
        """The replica is another part of a GPU by now."""
        self.derived = derived

    def typical_part(self, max_new_tokens: int) -> float:
        now_s = self.clock_s()
        if now_s >= self._refreshed_s + REFRESH_S:
            self._refreshed_s = now_s
            self._learn()
        part = self._parts.get(max_new_tokens)
        if part is None:
            # No super(): a class with slots is made anew by its decorator.
            part = self._parts[max_new_tokens] = DemandMeter.typical_part(self, max_new_tokens)
        return part

    def length_figures(self) -> LengthFigures:
        if self._lengths is None:
            self._lengths = DemandMeter.length_figures(self)
        return self._lengths

    def _learn(self) -> None:
        self.lengths = observe_lengths(
            self.lengths, prompts=self._ended_prompts, answers=self._ended_answers
        )
        self.own = observe_lengths(self.own, prompts=self._own_prompts, answers=self._own_answers)
        self._ended_prompts.clear()
        self._ended_answers.clear()
        self._own_prompts.clear()
        self._own_answers.clear()
        self._parts.clear()
        self._lengths = None


class _Grant:
    """Stands in for the future by which the gate signals a request that its slots are granted."""

    __slots__ = ("_granted", "_request")

    def __init__(self, request: SimRequest, granted: list[SimRequest]) -> None:
        self._request, self._granted = request, granted

    def set_result(self, _: None) -> None:
        self._granted.append(self._request)

    def cancel(self) -> None:
        """It left the queue."""


@dataclass(slots=True, eq=False)
class SimulatedReplica:
    """`connections` are HAProxy's: of all that came in here, wherever they run. `granted` are those
    that hold a slot and that the engine has not yet. `looks_s` is when the head of the queue next
    looks for capacity elsewhere."""

    tier: Tier
    gpu_type: str
    plan: GpuPlan
    gate: Gate
    meter: PatientMeter
    engine: SimulatedEngine
    ready_s: float
    expected_new_tokens: int
    overhead_s: float
    granted: list[SimRequest]
    fallback: bool
    stopping_s: float | None = None
    connections: int = 0
    chosen: int = 0
    has_capacity: bool = False
    size: float = 1.0
    looks_s: float | None = None
    _queue: deque[SimRequest] = field(default_factory=deque[SimRequest])
    _entering: SimRequest | None = None

    @classmethod
    def build(
        cls, plan: TierPlan, gpu_type: str, clock: Clock, *, ready_s: float
    ) -> "SimulatedReplica":
        """A replica of the tier on this GPU."""
        gpu_plan = plan.gpu_plans[gpu_type]
        meter = PatientMeter(
            derived=gpu_plan.profile.step_model,
            lengths=plan.lengths,
            clock_s=clock.read_s,
            slots=gpu_plan.limits.slots,
        )
        gate = Gate(replace(gpu_plan.limits), gpu_plan.service, clock.read_s, meter)
        replica = cls(
            tier=plan.tier,
            gpu_type=gpu_type,
            plan=gpu_plan,
            gate=gate,
            meter=meter,
            engine=SimulatedEngine(gpu_plan.profile, meter),
            ready_s=ready_s,
            expected_new_tokens=plan.expected_new_tokens,
            overhead_s=gpu_plan.profile.overhead_ms.value / 1e3,
            granted=[],
            fallback=gpu_type != plan.preference[0],
        )
        gate.make_grant = replica._make_grant
        replica.engine.first_token = replica._first_token
        return replica

    def enter(
        self, request: SimRequest, *, forwarded: bool = False, borrowed: bool = False
    ) -> None:
        """As `TierEdge._serve`. Raises GateFullError."""
        self._entering = request
        at_gate = self.gate.enter(
            1,
            key=request.number,
            # As OpenAI's clients, which count their retries in a header.
            retried=request.attempts > 0,
            work=relative_work(request.limit, self.expected_new_tokens),
            borrowed=borrowed,
            max_new_tokens=request.limit,
            forwarded=forwarded,
            prompt_tokens=request.prompt_tokens,
            flow=request.flow,
        )
        request.place = at_gate.__enter__()
        request.at_gate, request.runner = at_gate, self
        request.forwarded, request.borrowed = forwarded, borrowed
        if request.place.started_s is None:
            self._queue.append(request)

    def resize(self, size: float) -> None:
        """Be a part of a replica, where that is what a cell needs: as `SimulatedEngine.resize`,
        with that part of the slots and of the queue."""
        self.size = size
        self.engine.resize(size)
        model, whole = self.plan.profile.step_model, self.plan.limits
        self.meter.resize(
            replace(
                model,
                per_sequence_ms=model.per_sequence_ms / size,
                per_prompt_token_ms=model.per_prompt_token_ms / size,
            )
        )
        self.gate.configure(
            replace(
                whole,
                slots=max(1, round(whole.slots * size)),
                max_queued_requests=round(whole.max_queued_requests * size),
                batch_cost=whole.batch_cost / size,
                kv_tokens=round(whole.kv_tokens * size),
            )
        )

    def head(self) -> SimRequest | None:
        """The first one in the gate's queue."""
        queue = self._queue
        while queue:
            request = queue[0]
            if request.runner is self and request.place and request.place.started_s is None:
                return request
            queue.popleft()
        return None

    def leave(self, request: SimRequest) -> None:
        """Free its place, in the queue or among those that run."""
        assert request.at_gate is not None
        request.at_gate.__exit__(None, None, None)
        request.at_gate = None

    def finish(self, request: SimRequest) -> None:
        """It ran to its end: learn from it, and free its slot."""
        self.meter.finished(prompt_tokens=request.prompt_tokens, new_tokens=request.new_tokens)
        assert request.place is not None
        self.gate.observe_service(request.place)
        self.leave(request)

    @property
    def queue_depth(self) -> int:
        """As `RunningTier.queue_depth`."""
        return self.gate.queued_requests + self.engine.waiting

    def report(self) -> ReplicaLoad:
        """As `RunningTier.autoscaling_stats`, of a whole replica; what is in seconds of a
        replica's time is the same for a part of one."""
        gate, meter, waiting, size = self.gate, self.meter, self.engine.waiting, self.size
        figures = meter.figures(self.engine.output_tokens, own_part=gate.own_part)
        for name in PART_OF_A_REPLICA:
            figures[name] /= size
        for name in ("per_sequence_ms", "per_prompt_token_ms"):
            figures[name] *= size
        return ReplicaLoad(
            running=(gate.running_sequences - gate.borrowed_sequences) / size,
            queue_depth=(gate.queued_requests + waiting) / size,
            queued_requests=gate.queued_typical(waiting) / size,
            slots=gate.limits.slots / size,
            fallback=self.fallback,
            **figures,
        )

    def _first_token(self, request: SimRequest) -> None:
        """As the engine signals it to the edge."""
        assert request.place is not None
        self.gate.first_token(request.place)

    def _make_grant(self) -> "asyncio.Future[None]":
        assert self._entering is not None
        return cast("asyncio.Future[None]", _Grant(self._entering, self.granted))
