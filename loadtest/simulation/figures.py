"""What a run is judged by, small enough to be kept."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from loadtest.simulation.outcome import SimulationOutcome
from serve_app.core.tiers import Tier


class RunFigures(BaseModel):
    """`goodput`: share of all arrivals that met their tier's SLO, refused ones did not. `tiers` are
    shares and percentiles of each tier, in seconds. `cost_usd` None: a GPU's price is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    goodput: float
    attainment: float
    gpu_hours: float
    cost_usd: float | None
    scale_actions: int
    requests: int
    refused: int
    lent: int
    goodput_by_tier: Mapping[Tier, float]
    ttft_p95_s: Mapping[Tier, float | None]
    tpot_p95_s: Mapping[Tier, float | None]

    @classmethod
    def of(cls, outcome: SimulationOutcome) -> "RunFigures":
        return cls(
            goodput=outcome.goodput,
            attainment=outcome.attainment,
            gpu_hours=outcome.gpu_hours,
            cost_usd=outcome.total_cost_usd,
            scale_actions=outcome.scale_actions,
            requests=outcome.requests,
            refused=outcome.refused,
            lent=outcome.lent,
            goodput_by_tier={tier: found.goodput_share for tier, found in outcome.tiers.items()},
            ttft_p95_s={tier: found.ttft_s.p95 for tier, found in outcome.tiers.items()},
            tpot_p95_s={tier: found.tpot_s.p95 for tier, found in outcome.tiers.items()},
        )
