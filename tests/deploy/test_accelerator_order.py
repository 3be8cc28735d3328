"""The types of GPU in deploy/*.yaml stand in the order of what a token costs on them."""

from typing import Any

import pytest

from loadtest.simulation.profile import known_profiles
from loadtest.simulation.setup import PREFERENCE
from serve_app.config.accelerator_costs import cost_on, most_token_ms
from serve_app.config.tier import tier_args, tier_settings
from serve_app.core.default_model import DEFAULT_MODEL_CONFIG
from serve_app.core.placement.hardware import hardware_for, model_shape
from serve_app.core.placement.labels import accelerator_types
from serve_app.core.placement.token_cost import order_accelerators
from serve_app.core.tiers import Tier
from serve_app.local.profiles import load_profile

SHAPE = model_shape(DEFAULT_MODEL_CONFIG)
MIXED = {app["name"]: app for app in load_profile("mixed")["applications"]}


def asked(app: dict[str, Any]) -> list[str]:
    options = app["deployments"][0]["ray_actor_options"]
    fallbacks = [each["label_selector"] for each in options["fallback_strategy"]]
    return accelerator_types([options["label_selector"], *fallbacks])


@pytest.mark.parametrize("tier", list(Tier))
def test_a_tier_asks_for_the_cheapest_token_first(tier: Tier) -> None:
    app = MIXED[tier]
    args, types = tier_args(app["args"]), asked(app)
    settings = tier_settings(tier, app["deployments"][0]["user_config"])
    costs = [cost_on(name, SHAPE, args, settings) for name in sorted(types)]
    order = order_accelerators(costs, most_token_ms=most_token_ms(settings))
    assert list(order.types) == types, order.reason
    assert args.preferred_accelerator == types[0]


@pytest.mark.parametrize("tier", list(Tier))
def test_the_simulation_places_as_the_file_says(tier: Tier) -> None:
    profiles = known_profiles()
    assert [profiles[name].accelerator_type for name in PREFERENCE[tier]] == asked(MIXED[tier])


@pytest.mark.parametrize("name", ["T4", "RTX4090"])
def test_a_profile_has_the_price_that_the_server_reckons_with(name: str) -> None:
    profile = known_profiles()[name]
    price = hardware_for(profile.accelerator_type).price
    assert price is not None
    assert profile.price_usd_per_hour is not None
    reported = profile.price_usd_per_hour
    assert (reported.value, reported.source) == (price.usd_per_hour, price.source)
