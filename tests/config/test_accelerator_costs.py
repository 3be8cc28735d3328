"""What a replica reports of its GPU's price a token, and which types a tier's selectors name."""

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.config.accelerator_costs import cost_on, most_token_ms, times_the_preferred
from serve_app.config.tier import TierArgs, TierSettings, tier_args, tier_settings
from serve_app.core.default_model import DEFAULT_MODEL_CONFIG
from serve_app.core.placement.hardware import model_shape
from serve_app.core.placement.labels import ACCELERATOR_LABEL, accelerator_types
from serve_app.core.tiers import Tier

SHAPE = model_shape(DEFAULT_MODEL_CONFIG)
RTX_4090 = "GeForce-RTX-4090"


def args(preferred: str | None = RTX_4090, **prices: float) -> TierArgs:
    named = {"preferred_accelerator": preferred} if preferred else {}
    return tier_args({"tier": "chat", "gpu_prices_usd_per_hour": prices, **named})


def settings(**changed: Any) -> TierSettings:
    return tier_settings(Tier.CHAT, changed)


def test_a_replica_on_another_type_says_how_much_dearer_its_token_is() -> None:
    times = times_the_preferred("T4", SHAPE, args(), settings())
    assert times == pytest.approx(3.93, abs=0.05), "as docs/placement.md has it"
    assert times_the_preferred(RTX_4090, SHAPE, args(), settings()) == 1.0
    cheap = times_the_preferred("T4", SHAPE, args(T4=0.0526), settings())
    assert cheap == pytest.approx(times / 10)


@pytest.mark.parametrize(
    ("preferred", "held"), [(None, "T4"), (RTX_4090, None), (RTX_4090, "L4"), ("L4", "T4")]
)
def test_without_a_choice_or_a_price_nothing_is_dearer(
    preferred: str | None, held: str | None
) -> None:
    assert times_the_preferred(held, SHAPE, args(preferred), settings()) == 1.0


def test_a_price_makes_an_unknown_type_comparable() -> None:
    assert times_the_preferred("L4", SHAPE, args(L4=0.526), settings()) == pytest.approx(
        times_the_preferred("T4", SHAPE, args(), settings())
    ), "its speed is taken to be a T4's"


def test_a_tiers_latency_bounds_the_batch_that_it_is_reckoned_with() -> None:
    assert most_token_ms(settings()) == 100.0
    quick = settings(slo={"tpot_s": 0.02})
    assert cost_on("T4", SHAPE, args(), quick).token_ms <= 20.0
    at_least = settings(admission={"min_stream_tokens_per_s": 40.0})
    assert most_token_ms(at_least) == 25.0


def test_a_price_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        args(T4=0.0)


def test_types_stand_in_the_order_of_the_selectors() -> None:
    selectors = [{ACCELERATOR_LABEL: "in(T4,L4)", "zone": "a"}, {ACCELERATOR_LABEL: "A10"}]
    assert accelerator_types(selectors) == ["T4", "L4", "A10"]
    assert accelerator_types([{ACCELERATOR_LABEL: "!T4"}, {"zone": "a"}]) == []
