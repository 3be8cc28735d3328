"""What a tier's token costs on a type of GPU, by its settings; the arithmetic is in
`core/placement/token_cost.py`."""

from serve_app.config.tier import TierArgs, TierSettings
from serve_app.core.placement.hardware import ModelShape, hardware_for
from serve_app.core.placement.token_cost import TokenCost, times_as_dear, token_cost


def most_token_ms(settings: TierSettings) -> float:
    """The longest time between two tokens of a stream that the tier's settings allow."""
    slowest_ms = 1e3 / settings.admission.min_stream_tokens_per_s
    return min(1e3 * settings.slo.tpot_s, slowest_ms)


def cost_on(
    accelerator_type: str, shape: ModelShape, args: TierArgs, settings: TierSettings
) -> TokenCost:
    """Of the tier's typical request."""
    admission = settings.admission
    return token_cost(
        hardware_for(accelerator_type),
        shape,
        most_token_ms=most_token_ms(settings),
        prompt_tokens=admission.expected_prompt_tokens,
        new_tokens=min(admission.expected_new_tokens, settings.max_new_tokens),
        prices=args.gpu_prices_usd_per_hour,
    )


def times_the_preferred(
    accelerator_type: str | None, shape: ModelShape, args: TierArgs, settings: TierSettings
) -> float:
    """How many times as much a token costs on this type as on the tier's first choice; 1 where
    there is no choice, or a price is unknown."""
    preferred = args.preferred_accelerator
    if preferred is None or accelerator_type is None:
        return 1.0
    own = cost_on(accelerator_type, shape, args, settings)
    return times_as_dear(own, cost_on(preferred, shape, args, settings)) or 1.0
