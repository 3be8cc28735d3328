"""Settings of a tier that answer to its load: admission, SLO and scaling. All change live."""

import logging
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from serve_app.engine_config import Strict

log = logging.getLogger(__name__)

RETIRED_SCALING = ("wait_share", "slots_share")


class AdmissionConfig(Strict):
    """The gate in front of the engine of each replica."""

    max_running_sequences: int | None = Field(
        default=None,
        ge=1,
        description="Sequences that run at once; unset: derived from card and model.",
    )
    max_queued_requests: int | None = Field(
        default=None,
        ge=0,
        description="Requests that may wait; unset: as many as there are slots, or more "
        "where more drain within `max_wait_s`. Requests that come back when they were told to may "
        "exceed it by half.",
    )
    max_wait_s: float = Field(
        default=10.0,
        gt=0,
        description="Refuse a request whose first token cannot come within this time: by the slots "
        "that become free and the prompts that are read before its own.",
    )
    client_stall_s: float = Field(
        default=30.0,
        gt=0,
        description="How long a client may take nothing of an answer that is there; then its "
        "request ends. Its slots are free as soon as the engine has finished.",
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="Time in which a request's body must have arrived."
    )
    heartbeat_s: float = Field(
        default=2.0, gt=0, description="Time between SSE heartbeat comments while a request waits."
    )
    relay_after_s: float = Field(
        default=0.25,
        gt=0,
        description="How often the head of the line looks for room at another replica.",
    )
    lend_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of its slots that a replica lends to the other tier while no request of "
        "its own waits and its own `slo` is kept; 0: none. Only to a tier with the same model, "
        "context and parsers.",
    )
    expected_prompt_tokens: int = Field(
        default=512, ge=1, description="Prompt length that the derived limits reckon with."
    )
    expected_new_tokens: int = Field(
        default=400,
        ge=1,
        description="Answer length that the derived limits reckon with until measured.",
    )
    min_stream_tokens_per_s: float = Field(
        default=8.0, gt=0, description="Speed that each stream keeps when all slots are busy."
    )


class SloConfig(Strict):
    """What a good answer keeps: the scaling law aims at it, and goodput counts by it."""

    ttft_s: float = Field(
        default=2.0,
        gt=0,
        description="Longest time from a request's arrival to its first token. Default: a reader "
        "takes longer for a pause in the talk, and a short queue still fits into it. Below "
        "`admission.max_wait_s`, which is when the gate refuses.",
    )
    tpot_s: float = Field(
        default=0.1,
        gt=0,
        description="Longest mean time of a token after the first. Default: 10 tokens a second, "
        "some 450 words a minute, faster than most people read.",
    )


class ScalingConfig(Strict):
    """When the tier's replica count changes; `docs/scaling.md` has the law."""

    goodput: float = Field(
        default=0.99,
        gt=0.5,
        lt=1,
        description="Share of requests that are to keep the tier's SLO. Higher: replicas are "
        "ordered at a lower load, and more GPU-hours.",
    )
    drain_within_s: float = Field(
        default=30.0,
        gt=0,
        description="Time in which ordered replicas are to clear a backlog, once they serve. "
        "Lower: more of them at once.",
    )
    utilisation_down: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="A replica counts as needed down to this part of the load at which it was "
        "ordered, so that a load at a threshold does not flap.",
    )
    least_hold_s: float = Field(
        default=60.0,
        ge=0,
        description="A replica that is not needed is kept at least so long. How long it is kept "
        "beyond that is learnt: from what a start costs, and how soon load came back before.",
    )
    most_hold_s: float = Field(
        default=600.0, ge=0, description="A replica that is not needed is kept no longer than this."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: Any) -> Any:
        """Settings of the law before this one do nothing, and break no config either."""
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
