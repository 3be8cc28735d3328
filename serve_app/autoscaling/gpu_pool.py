"""What the tiers' autoscaling policies share: what each one demands, and how many GPUs there are.

Each tier is a Serve application and Serve calls its policy by itself, in the controller's process.
A module is what the two calls have in common: Serve copies a policy object, and a module's
function, but not the module. Nothing here must outlive the controller: after a restart the next
two calls fill it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from serve_app.autoscaling.prestart import Prestarter
from serve_app.core.scaling.gpu_budget import GpuDemand, NeededGpus, observe_needed
from serve_app.core.scaling.joint_need import fewest_together
from serve_app.core.scaling.tier_need import LentLoad, TierNeed
from serve_app.core.tiers import Tier

# A tier whose policy is no longer called has been removed.
DEMAND_LASTS_S = 10.0
COUNT_LASTS_S = 5.0
T = TypeVar("T")


@dataclass(slots=True)
class GpuPool:
    """What the tiers demand, need and could lend, with the time of each; and the cluster's GPUs as
    counted last."""

    _demands: dict[Tier, tuple[float, GpuDemand]] = field(default_factory=dict)
    _spare: dict[Tier, tuple[float, LentLoad | None]] = field(default_factory=dict)
    _needs: dict[Tier, tuple[float, TierNeed | None]] = field(default_factory=dict)
    _per_replica: dict[Tier, float] = field(default_factory=dict)
    _needed: NeededGpus = field(default_factory=NeededGpus)
    _prestarter: Prestarter = field(default_factory=Prestarter)
    _gpus: float = 0.0
    _counted_s: float = float("-inf")

    def demands(self, tier: Tier, demand: GpuDemand, now_s: float) -> dict[Tier, GpuDemand]:
        """Note one tier's demand; all that are not older than `DEMAND_LASTS_S`."""
        self._demands[tier] = (now_s, demand)
        return {
            other: reported
            for other, (reported_s, reported) in self._demands.items()
            if now_s - reported_s <= DEMAND_LASTS_S
        }

    def kept(self, demands: Mapping[Tier, GpuDemand], now_s: float, *, lend_share: float) -> float:
        """The most GPUs that all tiers together needed within the hold."""
        needs = {
            tier: need
            for tier, (noted_s, need) in self._needs.items()
            if need is not None and now_s - noted_s <= DEMAND_LASTS_S
        }
        together = fewest_together(needs, lend_share=lend_share)
        self._needed = observe_needed(self._needed, demands, now_s=now_s, together=together)
        return self._needed.most

    def gpus_per_replica(self, tier: Tier, reported: Sequence[float]) -> float:
        """GPUs that a replica of the tier holds: the newest that was ever reported, one before
        that. A tier whose replicas are all silent has a minimum to keep, too."""
        if reported:
            self._per_replica[tier] = max(reported)
        return self._per_replica.get(tier, 1.0)

    def borrowable(self, tier: Tier, spare: LentLoad | None, now_s: float) -> LentLoad | None:
        """Note what one tier could lend; what it could borrow of another one."""
        self._spare[tier] = (now_s, spare)
        return _of_another(self._spare, tier, now_s)

    def note_need(self, tier: Tier, need: TierNeed | None, now_s: float) -> None:
        """What one tier needs, for the next decision of the one that lends to it."""
        self._needs[tier] = (now_s, need)

    def borrower(self, tier: Tier, now_s: float) -> TierNeed | None:
        """What another tier needs."""
        return _of_another(self._needs, tier, now_s)

    def gpus(self, now_s: float) -> float:
        """The cluster's GPUs, counted every few seconds."""
        if now_s - self._counted_s > COUNT_LASTS_S:
            self._gpus, self._counted_s = _cluster_gpus(), now_s
        return self._gpus

    def prestart_workers(self, now_s: float) -> None:
        """On each node with a free GPU for the smallest replica, a worker that waits for one."""
        if self._gpus and self._per_replica:
            self._prestarter.look(min(self._per_replica.values()), now_s)


def _of_another(noted: Mapping[Tier, tuple[float, T | None]], tier: Tier, now_s: float) -> T | None:
    """What is known of another tier, and not older than `DEMAND_LASTS_S`."""
    recent = (
        value
        for other, (noted_s, value) in noted.items()
        if other is not tier and now_s - noted_s <= DEMAND_LASTS_S
    )
    return next((value for value in recent if value is not None), None)


# The one module state of this code base; see above.
POOL = GpuPool()


def _cluster_gpus() -> float:
    import ray

    return float(ray.cluster_resources().get("GPU", 0.0))
