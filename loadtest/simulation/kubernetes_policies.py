"""The policies by which Kubernetes stacks scale on queues: KEDA, llm-d's autoscaler, AIBrix's.

Each is written anew from its project's documentation and source, with its defaults. What they read
of an engine is what waits and runs at a replica of this data plane, whose gate holds the queue that
vLLM would hold.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtest.simulation.replica import SimulatedReplica
from loadtest.simulation.tier_state import TierState
from serve_app.core.tiers import Tier

SYNC_S = 15.0
TOLERANCE = 0.1


@dataclass(slots=True)
class Descent:
    """The horizontal pod autoscaler's stabilisation: a tier's count falls to the highest desired
    count of the last `stabilisation_s` (300 s if nothing is said), and rises at once."""

    stabilisation_s: float
    _recent: dict[Tier, deque[tuple[float, int]]] = field(default_factory=dict)

    def apply(self, tier: Tier, desired: int, target: int, now_s: float) -> int:
        recent = self._recent.setdefault(tier, deque())
        recent.append((now_s, desired))
        while recent[0][0] < now_s - self.stabilisation_s:
            recent.popleft()
        # Not above what runs for the sake of an old desired count: stabilisation only slows the way
        # down.
        return max(desired, min(target, max(past for _, past in recent)))


@dataclass(slots=True)
class Every:
    """True once in `period_s` for each tier."""

    period_s: float
    _last_s: dict[Tier, float] = field(default_factory=dict)

    def due(self, tier: Tier, now_s: float) -> bool:
        if now_s - self._last_s.get(tier, -math.inf) < self.period_s:
            return False
        self._last_s[tier] = now_s
        return True


@dataclass(slots=True)
class WaitingThreshold:
    """A Kubernetes autoscaler on waiting requests, as KEDA feeds it: the metric is read every 30 s,
    desired are `waiting / threshold` outside a tolerance of 10 %, and the count falls as `Descent`
    says (KEDA's and the autoscaler's documented defaults: keda.sh/docs, ScaledObject
    specification)."""

    threshold: float
    minimum: int
    maximum: int
    descent: Descent = field(default_factory=lambda: Descent(300.0))
    _poll: Every = field(default_factory=lambda: Every(30.0))
    _sync: Every = field(default_factory=lambda: Every(SYNC_S))
    _waiting: dict[Tier, float] = field(default_factory=dict)

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        return {tier: self._target(tier, state, now_s) for tier, state in tiers.items()}

    def _target(self, tier: Tier, state: TierState, now_s: float) -> int:
        target = round(state.target)
        if self._poll.due(tier, now_s):
            self._waiting[tier] = state.queue_depth * state.weight
        if not self._sync.due(tier, now_s):
            return target
        waiting = self._waiting[tier]
        ratio = waiting / (self.threshold * max(1, target))
        desired = target if abs(ratio - 1) <= TOLERANCE else math.ceil(waiting / self.threshold)
        desired = min(max(desired, self.minimum), self.maximum)
        return self.descent.apply(tier, desired, target, now_s)


@dataclass(frozen=True, slots=True)
class _Peak:
    """A replica's worst of the last minute."""

    kv_usage: float
    queue: float


@dataclass(slots=True)
class LlmdSaturation:
    """llm-d's workload variant autoscaler in its saturation mode, through the autoscaler of
    Kubernetes (llm-d/llm-d-workload-variant-autoscaler v0.7.0, docs/saturation-analyzer.md and
    deploy/configmap-saturation-scaling.yaml).

    Twice a minute it looks at each replica's peaks of a minute, scraped every 15 s. A replica is
    saturated at `kv_threshold` (0.8) of its KV cache or `queue_threshold` (5) waiting requests. One
    replica more is desired where those that are not saturated have on average less left than
    `kv_spare` (0.1) or `queue_spare` (3), and none is starting; one less where the rest would keep
    that much with the whole load.
    """

    queue_threshold: float
    queue_spare: float
    minimum: int
    maximum: int
    kv_threshold: float = 0.8
    kv_spare: float = 0.1
    descent: Descent = field(default_factory=lambda: Descent(300.0))
    _scrape: Every = field(default_factory=lambda: Every(15.0))
    _decide: Every = field(default_factory=lambda: Every(30.0))
    _seen: dict[SimulatedReplica, deque[_Peak]] = field(default_factory=dict)

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        return {tier: self._target(tier, state, now_s) for tier, state in tiers.items()}

    def _target(self, tier: Tier, state: TierState, now_s: float) -> int:
        target = round(state.target)
        if self._scrape.due(tier, now_s):
            self._look(state)
        if not self._decide.due(tier, now_s):
            return target
        # In a cell a replica stands for several: so many at a time.
        desired = target + self._change(state) * max(1, round(state.weight))
        desired = min(max(desired, self.minimum), self.maximum)
        return self.descent.apply(tier, desired, target, now_s)

    def _look(self, state: TierState) -> None:
        for replica in state.serving:
            seen = self._seen.setdefault(replica, deque(maxlen=4))
            seen.append(_Peak(replica.engine.kv_usage, replica.queue_depth / replica.size))

    def _change(self, state: TierState) -> int:
        peaks = [
            _Peak(max(p.kv_usage for p in seen), max(p.queue for p in seen))
            for replica in state.serving
            if (seen := self._seen.get(replica))
        ]
        free = [
            p for p in peaks if p.kv_usage < self.kv_threshold and p.queue < self.queue_threshold
        ]
        if not peaks:
            return 0
        if not self._spare(free, len(free)):
            starting = len(state.starting_or_serving) > len(state.serving)
            return 0 if starting else 1
        return -1 if len(free) >= 2 and self._spare(free, len(free) - 1) else 0

    def _spare(self, free: list[_Peak], replicas: int) -> bool:
        """Whether so many replicas with the load of the free ones keep enough."""
        if not replicas:
            return False
        kv = self.kv_threshold - sum(p.kv_usage for p in free) / replicas
        queue = self.queue_threshold - sum(p.queue for p in free) / replicas
        return kv >= self.kv_spare and queue >= self.queue_spare


@dataclass(slots=True)
class AibrixApa:
    """AIBrix's application-specific pod autoscaler (vllm-project/aibrix, pkg/controller/
    podautoscaler/algorithm/apa.go and context/context.go) on what runs and waits at a replica.

    Every 10 s the mean of a replica is compared with `per_replica`: above it by more than a
    tolerance of 10 % the count grows with the ratio, at most twofold; below it by more than that it
    shrinks with it, at most to a half, and not within `cooldown_s` (300 s) after a change.
    """

    per_replica: float
    minimum: int
    maximum: int
    cooldown_s: float = 300.0
    rate: float = 2.0
    _sync: Every = field(default_factory=lambda: Every(10.0))
    _changed_s: dict[Tier, float] = field(default_factory=dict)

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        return {tier: self._target(tier, state, now_s) for tier, state in tiers.items()}

    def _target(self, tier: Tier, state: TierState, now_s: float) -> int:
        target = round(state.target)
        serving = round(len(state.serving) * state.weight)
        if not serving or not self._sync.due(tier, now_s):
            return target
        ratio = state.ongoing * state.weight / serving / self.per_replica
        # Of all that are ordered, as AIBrix counts: those that start have no load to show.
        desired = target
        if ratio > 1 + TOLERANCE:
            desired = min(math.ceil(target * ratio), math.ceil(self.rate * target))
        elif ratio < 1 - TOLERANCE:
            desired = max(math.ceil(target * ratio), math.floor(target / self.rate))
        desired = min(max(desired, self.minimum), self.maximum)
        if desired < target and now_s - self._changed_s.get(tier, -math.inf) < self.cooldown_s:
            return target
        if desired != target:
            self._changed_s[tier] = now_s
        return desired
