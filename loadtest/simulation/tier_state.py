"""A tier of the simulated cluster: its replicas, which of them serve, and which have capacity."""

import math
from collections import deque
from dataclasses import dataclass, field

from loadtest.simulation.balancer import LeastConnections
from loadtest.simulation.replica import Replica
from loadtest.simulation.setup import TierPlan

# 3 x (1 / 3) is not 1 in floating point.
ROUNDING = 1e-6


@dataclass(slots=True)
class TierState:
    """`target` is in replicas of the fleet; each simulated one stands for `weight` of them.
    `serving` are in HAProxy's list, `with_capacity` those of them at which a request would run at
    once."""

    plan: TierPlan
    weight: float = 1.0
    target: float = 0.0
    replicas: list[Replica] = field(default_factory=list)
    serving: dict[Replica, None] = field(default_factory=dict)
    with_capacity: dict[Replica, None] = field(default_factory=dict)
    balancer: LeastConnections = field(default_factory=LeastConnections)
    # When which target was set, for as long as a start takes.
    _targets: deque[tuple[float, float]] = field(default_factory=deque[tuple[float, float]])

    @property
    def cell_target(self) -> int:
        """Simulated replicas: a part of one is one."""
        return max(1, math.ceil(self.target / self.weight - ROUNDING))

    @property
    def size(self) -> float:
        """What part of a replica each simulated one is, so that together they are the target."""
        return min(1.0, self.target / self.weight / self.cell_target)

    def fit(self, now_s: float) -> list[Replica]:
        """Let the replicas of a cell be such parts. What is added to the target counts only after a
        start, as if it were replicas of its own. Those whose gates may let something in now."""
        if self.weight == 1:
            return []
        start_s = self.plan.gpu_plans[self.plan.preference[0]].start_s
        self._targets.append((now_s, self.target))
        while len(self._targets) > 1 and self._targets[1][0] <= now_s - start_s:
            self._targets.popleft()
        started = min(target for _, target in self._targets)
        size = min(1.0, started / self.weight / max(len(self.serving), 1))
        changed = [r for r in self.serving if abs(r.size - size) > ROUNDING]
        for replica in changed:
            replica.resize(size)
            self.update_capacity(replica)
        return changed

    @property
    def starting_or_serving(self) -> list[Replica]:
        """Those that start or serve."""
        return [replica for replica in self.replicas if replica.stopping_s is None]

    @property
    def running(self) -> int:
        """Sequences of the tier's own that run at its replicas."""
        gates = [replica.gate for replica in self.replicas]
        return sum(gate.running_sequences - gate.borrowed_sequences for gate in gates)

    @property
    def ongoing(self) -> int:
        """As Serve counts a deployment's requests: what runs and waits at those that serve."""
        return sum(
            gate.running_sequences - gate.borrowed_sequences + gate.queued_requests
            for gate in (replica.gate for replica in self.serving)
        )

    @property
    def queue_depth(self) -> int:
        """Requests that wait, at the gates and inside the engines."""
        return sum(replica.queue_depth for replica in self.replicas)

    def serve(self, replica: Replica) -> None:
        """It has started: it comes into HAProxy's list."""
        self.serving[replica] = None
        self.balancer.add(replica)
        self.update_capacity(replica)

    def stop_one(self, now_s: float) -> None:
        """Like Serve: one that has not started, then the less preferred GPU, then the idlest."""
        preference = self.plan.preference
        chosen = max(
            self.starting_or_serving,
            key=lambda r: (
                r not in self.serving,
                preference.index(r.gpu_type),
                -r.gate.running_sequences - r.gate.queued_requests,
            ),
        )
        chosen.stopping_s = now_s
        if chosen in self.serving:
            del self.serving[chosen]
            self.balancer.remove(chosen)
            self.update_capacity(chosen)

    def update_capacity(self, replica: Replica) -> None:
        """Keep `with_capacity` true after something has come to this replica's gate, or left it."""
        has_capacity = replica.gate.has_room(1) and replica in self.serving
        if has_capacity is replica.has_capacity:
            return
        replica.has_capacity = has_capacity
        if has_capacity:
            self.with_capacity[replica] = None
        else:
            del self.with_capacity[replica]
