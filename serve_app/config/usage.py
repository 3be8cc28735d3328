"""What is shown of the use of API keys: one section of the `args` of web."""

from pydantic import Field

from serve_app.config.engine import Strict


class UsageConfig(Strict):
    """How usage by key is priced and counted (docs/usage.md), where keys are on."""

    price_per_gpu_hour: float | None = Field(
        default=None,
        ge=0,
        description="What an hour of one GPU costs you, in a currency of yours: `cost` of "
        "`/api/usage` is its part of that. Unset: no cost is shown.",
    )
    labelled_keys: int = Field(
        default=50,
        ge=0,
        le=1000,
        description="So many keys have series of their own in `/metrics`, by name; the rest are "
        "counted together as `other`.",
    )
