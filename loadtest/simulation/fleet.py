"""The simulated cluster: GPUs, the tiers' replicas on them, and how requests find a place.

A request comes to the replica with the fewest connections. Production's gate there runs it, lets it
wait or refuses it. The head of each queue looks for capacity every `relay_after_s`, and who would
be refused looks at once: first at the tier's other replicas, then at those of the other tier that
lend (`serve_app/api/edge.py`, `serve_app/api/forwarding.py`).
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from loadtest.simulation.recorder import Recorder
from loadtest.simulation.replica import Clock, SimulatedReplica
from loadtest.simulation.sim_request import SimRequest
from loadtest.simulation.tier_state import TierState
from serve_app.api.gate import GateFullError
from serve_app.config.admission import AdmissionConfig
from serve_app.core.tiers import Tier

RELAY_AFTER_S = AdmissionConfig().relay_after_s
ROUNDING = 1e-6

Handler = Callable[[Any, float], None]


@dataclass(slots=True)
class Fleet:
    """Events in order of time; `advance` runs the fleet up to a moment. `retries`: so many times a
    refused client retries after its Retry-After."""

    tiers: Mapping[Tier, TierState]
    free_gpus: Counter[str]
    clock: Clock
    recorder: Recorder
    min_drain_s: float = 5.0
    retries: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    allocated_s: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    retrying: int = 0
    _preempted: Counter[Tier] = field(default_factory=Counter[Tier])
    _events: list[tuple[float, int, Handler, Any]] = field(default_factory=list)
    _order: int = 0

    def arrive(self, request: SimRequest, now_s: float) -> None:
        """A client asks, for the first time or again."""
        self.clock.now_s = now_s
        entry = request.entry = self.tiers[request.tier].balancer.choose()
        try:
            entry.enter(request)
        except GateFullError as refused:
            if self._forwarded(request, entry, now_s):
                entry.gate.withdraw(refused)
            else:
                self._refuse(request, entry, refused, now_s)
            return
        self._after_gate(entry, now_s)
        if entry.looks_s is None and request.place and request.place.started_s is None:
            self._look_later(entry, request, now_s)

    def advance(self, until_s: float) -> None:
        """Run the fleet up to `until_s`."""
        events = self._events
        while events and events[0][0] <= until_s:
            now_s, _, handler, thing = heappop(events)
            self.clock.now_s = now_s
            handler(thing, now_s)
        self.clock.now_s = until_s

    @property
    def busy(self) -> bool:
        """Whether any request is in the fleet, or will be retried."""
        return bool(self.retrying) or any(
            replica.gate.running_sequences or replica.gate.queued_requests
            for state in self.tiers.values()
            for replica in state.replicas
        )

    def preempted(self, tier: Tier) -> int:
        """Sequences that the tier's engines put out of their KV pools."""
        here = (replica.engine.preempted for replica in self.tiers[tier].replicas)
        return self._preempted[tier] + sum(here)

    def reconcile(self, tier: Tier, now_s: float, *, at_once: bool = False) -> None:
        """Start or stop replicas towards the target, as Serve does; free GPUs that are drained.
        `at_once`: they serve without a start."""
        state = self.tiers[tier]
        for replica in [r for r in state.replicas if r.stopping_s is not None]:
            if self._drained(replica, now_s):
                state.replicas.remove(replica)
                self._preempted[tier] += replica.engine.preempted
                self.free_gpus[replica.gpu_type] += 1
        missing = state.cell_target - len(state.starting_or_serving)
        for _ in range(-missing):
            state.stop_one(now_s)
        for _ in range(missing):
            gpu_type = next(
                (gpu_type for gpu_type in state.plan.preference if self.free_gpus[gpu_type]), None
            )
            if gpu_type is None:
                break
            self.free_gpus[gpu_type] -= 1
            start_s = 0.0 if at_once else state.plan.gpu_plans[gpu_type].start_s
            replica = SimulatedReplica.build(
                state.plan, gpu_type, self.clock, ready_s=now_s + start_s
            )
            state.replicas.append(replica)
            if at_once:
                state.serve(replica)
            else:
                self._at(replica.ready_s, self._become_ready, replica)
        for replica in state.fit(now_s):
            self._after_gate(replica, now_s)

    def count_allocated(self, seconds: float) -> None:
        """Count the GPUs as allocated for this time; of a part of a replica, that part."""
        for state in self.tiers.values():
            size = state.size
            for replica in state.replicas:
                part = replica.size if replica.stopping_s is not None else size
                self.allocated_s[replica.gpu_type] += seconds * part

    def _drained(self, replica: SimulatedReplica, now_s: float) -> bool:
        if replica.ready_s > now_s:
            return True
        empty = not (replica.gate.running_sequences or replica.gate.queued_requests)
        return empty and now_s >= (replica.stopping_s or 0.0) + self.min_drain_s

    def _become_ready(self, replica: SimulatedReplica, now_s: float) -> None:
        if replica.stopping_s is None:
            self.tiers[replica.tier].serve(replica)

    def _end_stride(self, replica: SimulatedReplica, now_s: float) -> None:
        engine = replica.engine
        if engine.stride_end_s != now_s:
            return
        for request in engine.end_stride(now_s):
            self._finish(request, replica, now_s)
        if engine.stride_end_s is not None:
            self._at(engine.stride_end_s, self._end_stride, replica)
        self._after_gate(replica, now_s)

    def _finish(self, request: SimRequest, replica: SimulatedReplica, now_s: float) -> None:
        self.recorder.served(request, now_s)
        replica.finish(request)
        entry = request.entry
        assert entry is not None
        self.tiers[request.tier].balancer.end(entry)

    def _after_gate(self, replica: SimulatedReplica, now_s: float) -> None:
        """What was granted goes to the engine; others learn whether there is capacity."""
        if replica.granted:
            engine = replica.engine
            changed = False
            for request in replica.granted:
                changed |= engine.take(request, now_s)
            replica.granted.clear()
            if changed and engine.stride_end_s is not None:
                self._at(engine.stride_end_s, self._end_stride, replica)
        self.tiers[replica.tier].update_capacity(replica)

    def _refuse(
        self, request: SimRequest, entry: SimulatedReplica, refused: GateFullError, now_s: float
    ) -> None:
        self.tiers[request.tier].balancer.end(entry)
        if request.attempts >= self.retries:
            self.recorder.refused(request, refused.admission.reason)
            return
        request.attempts += 1
        self.retrying += 1
        self._at(now_s + refused.admission.retry_after_s, self._retry, request)

    def _retry(self, request: SimRequest, now_s: float) -> None:
        self.retrying -= 1
        self.recorder.retried(request)
        self.arrive(request, now_s)

    def _look_later(self, replica: SimulatedReplica, head: SimRequest, now_s: float) -> None:
        """Who waits looks every `RELAY_AFTER_S` from its own beginning, if it is the head then."""
        assert head.place is not None
        entered_s = head.place.entered_s
        looks = math.floor((now_s - entered_s) / RELAY_AFTER_S + ROUNDING) + 1
        replica.looks_s = entered_s + looks * RELAY_AFTER_S
        self._at(replica.looks_s, self._head_looks, (replica, head))

    def _head_looks(self, looking: tuple[SimulatedReplica, SimRequest], now_s: float) -> None:
        replica, request = looking
        replica.looks_s = None
        # If another one is the head by now, its own time to look has yet to come.
        if replica.head() is request:
            leaving = request.at_gate
            if self._forwarded(request, replica, now_s):
                assert leaving is not None
                leaving.__exit__(None, None, None)
                self._after_gate(replica, now_s)
        head = replica.head()
        if head is not None:
            self._look_later(replica, head, now_s)

    def _forwarded(self, request: SimRequest, asking: SimulatedReplica, now_s: float) -> bool:
        """Whether another replica runs it at once."""
        own = self.tiers[request.tier]
        for replica in self._in_any_order(own.with_capacity):
            if replica is not asking:
                replica.enter(request, forwarded=True)
                self._after_gate(replica, now_s)
                return True
        for tier, state in self.tiers.items():
            if tier is request.tier:
                continue
            for replica in self._in_any_order(state.with_capacity):
                if replica.gate.may_lend(1, request.prompt_tokens).allowed:
                    replica.enter(request, borrowed=True)
                    self._after_gate(replica, now_s)
                    return True
        return False

    def _in_any_order(self, replicas: Mapping[SimulatedReplica, None]) -> list[SimulatedReplica]:
        return self.rng.sample(list(replicas), len(replicas)) if replicas else []

    def _at(self, at_s: float, handler: Handler, thing: Any) -> None:
        self._order += 1
        heappush(self._events, (at_s, self._order, handler, thing))
