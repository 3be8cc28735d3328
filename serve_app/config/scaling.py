"""A tier's SLO, and how its replica count follows the load. All change live."""

import logging
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from serve_app.config.engine import Strict

log = logging.getLogger(__name__)

RETIRED_SCALING = ("wait_share", "slots_share")


class SloConfig(Strict):
    """What a good answer meets: the scaling policy aims at it, and goodput counts by it."""

    ttft_s: float = Field(
        default=2.0,
        gt=0,
        description="Maximum time from a request's arrival to its first token. Default: a reader "
        "notices a longer pause, and a short queue still fits into it. Below "
        "`admission.max_wait_s`, which is when the gate refuses.",
    )
    tpot_s: float = Field(
        default=0.1,
        gt=0,
        description="Maximum mean time per token after the first. Default: 10 tokens a second, "
        "some 450 words a minute, faster than most people read.",
    )


class ScalingConfig(Strict):
    """When the tier's replica count changes; `docs/scaling.md` describes the scaling policy."""

    goodput: float = Field(
        default=0.99,
        gt=0.5,
        lt=1,
        description="Fraction of requests that are to meet the tier's SLO. Higher: replicas are "
        "started at a lower load, for more GPU-hours.",
    )
    drain_within_s: float = Field(
        default=30.0,
        gt=0,
        description="Time in which new replicas are to clear a backlog, once they serve. Lower: "
        "more of them at once.",
    )
    utilisation_down: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="A replica counts as needed down to this fraction of the load at which it was "
        "started, so that a load at a threshold does not flap. What the requests of a hold needed "
        "is judged without it.",
    )
    least_hold_s: float = Field(
        default=60.0,
        ge=0,
        description="A replica that is not needed is kept at least so long. How much longer is "
        "learned from what a start costs and how soon load returned before.",
    )
    most_hold_s: float = Field(
        default=600.0, ge=0, description="A replica that is not needed is kept no longer than this."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: Any) -> Any:
        """Settings of the previous scaling policy do nothing, and break no config either."""
        if not isinstance(values, Mapping):
            return values
        retired = [name for name in RETIRED_SCALING if name in values]
        if retired:
            log.warning("scaling: %s: no longer used; see docs/scaling.md", ", ".join(retired))
        return {name: value for name, value in values.items() if name not in RETIRED_SCALING}

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least_hold_s > self.most_hold_s:
            raise ValueError(
                f"least_hold_s {self.least_hold_s:g} is above most_hold_s {self.most_hold_s:g}"
            )
        return self
