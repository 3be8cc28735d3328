"""A tier of the simulated cluster: its replicas, which of them serve, and which have capacity."""

import math
from collections import deque
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from loadtest.simulation.replica import SimulatedReplica
from loadtest.simulation.setup import TierPlan

# 3 x (1 / 3) is not 1 in floating point.
ROUNDING = 1e-6
# Of the entries of the heap most are out of date before it is made anew.
STALE_ENTRIES = 8


@dataclass(slots=True)
class LeastConnections:
    """HAProxy's `balance leastconn`: the server with the fewest connections; of equals, in turn.

    A heap of (connections, turn, replica); an entry counts while it is its replica's newest.
    """

    _heap: list[tuple[int, int, SimulatedReplica]] = field(default_factory=list)
    _servers: dict[SimulatedReplica, None] = field(default_factory=dict)
    _turn: int = 0

    def add(self, replica: SimulatedReplica) -> None:
        self._servers[replica] = None
        self._put(replica)

    def remove(self, replica: SimulatedReplica) -> None:
        """It gets no new connection; those that it has may end later."""
        del self._servers[replica]

    def choose(self) -> SimulatedReplica:
        """The next connection's server, with that connection counted."""
        heap = self._heap
        while True:
            _, turn, replica = heap[0]
            if turn == replica.chosen and replica in self._servers:
                break
            heappop(heap)
        replica.connections += 1
        self._put(replica)
        return replica

    def end(self, replica: SimulatedReplica) -> None:
        """One of its connections has ended."""
        replica.connections -= 1
        if replica in self._servers:
            self._put(replica)

    def _put(self, replica: SimulatedReplica) -> None:
        self._turn += 1
        replica.chosen = self._turn
        heappush(self._heap, (replica.connections, self._turn, replica))
        if len(self._heap) > STALE_ENTRIES * (len(self._servers) + 8):
            self._heap = [(r.connections, r.chosen, r) for r in self._servers]
            heapify(self._heap)


@dataclass(slots=True)
class TierState:
    """`target` is in replicas of the fleet; each simulated one stands for `weight` of them.
    `serving` are in HAProxy's list, `with_capacity` those of them at which a request would run at
    once."""

    plan: TierPlan
    weight: float = 1.0
    target: float = 0.0
    replicas: list[SimulatedReplica] = field(default_factory=list)
    serving: dict[SimulatedReplica, None] = field(default_factory=dict)
    with_capacity: dict[SimulatedReplica, None] = field(default_factory=dict)
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

    def fit(self, now_s: float) -> list[SimulatedReplica]:
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
    def starting_or_serving(self) -> list[SimulatedReplica]:
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

    def serve(self, replica: SimulatedReplica) -> None:
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

    def update_capacity(self, replica: SimulatedReplica) -> None:
        """Keep `with_capacity` true after something has come to this replica's gate, or left it."""
        has_capacity = replica.gate.has_room(1) and replica in self.serving
        if has_capacity is replica.has_capacity:
            return
        replica.has_capacity = has_capacity
        if has_capacity:
            self.with_capacity[replica] = None
        else:
            del self.with_capacity[replica]
