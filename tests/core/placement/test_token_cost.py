"""What a token costs on each type of GPU, and the order that follows from it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.placement.hardware import (
    RTX_4090,
    T4,
    Hardware,
    Price,
    hardware_for,
    model_shape,
)
from serve_app.core.placement.token_cost import (
    TokenCost,
    give_back_reason,
    order_accelerators,
    times_as_dear,
    token_cost,
)
from tests.builders import R1_DISTILL_QWEN_1_5B

SHAPE = model_shape(R1_DISTILL_QWEN_1_5B)
NAMES = st.sampled_from(["T4", "L4", "A10", "GeForce-RTX-4090"])
COSTS = st.lists(
    st.builds(
        TokenCost,
        accelerator_type=NAMES,
        token_ms=st.floats(1.0, 200.0),
        usd_per_million_tokens=st.none() | st.floats(0.001, 10.0),
    ),
    unique_by=lambda cost: cost.accelerator_type,
    min_size=1,
)


def cost_of(hardware: Hardware, *, most_token_ms: float = 100.0, **prices: float) -> TokenCost:
    return token_cost(
        hardware,
        SHAPE,
        most_token_ms=most_token_ms,
        prompt_tokens=500,
        new_tokens=400,
        prices=prices,
    )


def test_a_token_costs_its_part_of_the_gpus_time() -> None:
    """A step of 10 + 1 x 10 ms has ten tokens, and 500 prompt tokens at 0.1 ms come to 400 new
    ones: 2.125 ms a token at $3.60 an hour, which is a thousandth of a dollar a second."""
    gpu = replace(
        T4,
        bandwidth_bytes_per_s=float("inf"),
        step_overhead_ms=10.0,
        step_per_sequence_ms=1.0,
        prefill_tokens_per_s=10_000,
        max_sequences=10,
        price=Price(3.6, "made up"),
    )
    found = cost_of(gpu)
    assert found.token_ms == pytest.approx(20.0)
    assert found.usd_per_million_tokens == pytest.approx(2.125)


def test_a_t4s_token_is_dearer_by_price_and_speed() -> None:
    order = order_accelerators([cost_of(T4), cost_of(RTX_4090)], most_token_ms=100.0)
    assert order.types == ("GeForce-RTX-4090", "T4")
    assert order.reason.startswith("GeForce-RTX-4090 ($0.0")
    times = times_as_dear(cost_of(T4), cost_of(RTX_4090))
    assert times is not None
    assert 3.0 < times < 5.0


def test_a_price_of_ones_own_wins() -> None:
    costs = [cost_of(T4, T4=0.05), cost_of(RTX_4090)]
    assert order_accelerators(costs, most_token_ms=100.0).types == ("T4", "GeForce-RTX-4090")


def test_a_stream_that_needs_its_tokens_soon_makes_a_slow_gpu_dear_or_last() -> None:
    at_ease, hurried = cost_of(T4), cost_of(T4, most_token_ms=20.0)
    assert hurried.token_ms <= 20.0
    assert (times_as_dear(hurried, at_ease) or 0) > 1.5
    # Not even one stream has a token every 10 ms on a T4, however cheap it is.
    costs = [cost_of(T4, most_token_ms=10.0, T4=0.001), cost_of(RTX_4090, most_token_ms=10.0)]
    order = order_accelerators(costs, most_token_ms=10.0)
    assert order.types == ("GeForce-RTX-4090", "T4")
    assert "slower than 10 ms" in order.reason


def test_a_gpu_that_is_not_known_has_no_price() -> None:
    unknown = cost_of(hardware_for("L4"))
    assert unknown.usd_per_million_tokens is None
    assert times_as_dear(unknown, cost_of(T4)) is None
    order = order_accelerators([unknown, cost_of(T4)], most_token_ms=100.0)
    assert order.types == ("T4", "L4")
    assert "no price known" in order.reason


@given(COSTS, st.floats(1.0, 200.0))
def test_every_type_is_in_the_order_and_who_keeps_the_limit_comes_first(
    costs: list[TokenCost], most_token_ms: float
) -> None:
    order = order_accelerators(costs, most_token_ms=most_token_ms)
    by_name = {cost.accelerator_type: cost for cost in costs}
    assert sorted(order.types) == sorted(by_name)
    keeps = [by_name[name].token_ms <= most_token_ms for name in order.types]
    assert keeps == sorted(keeps, reverse=True)
    listed = [by_name[name].usd_per_million_tokens for name in order.types[: sum(keeps)]]
    known = [usd for usd in listed if usd is not None]
    assert listed == [*sorted(known), *([None] * (len(listed) - len(known)))]


@given(st.floats(0.01, 10), st.floats(1.0, 10.0), st.floats(5.0, 200.0))
def test_a_token_costs_in_proportion_to_the_price(
    price: float, times: float, most_ms: float
) -> None:
    base = cost_of(T4, most_token_ms=most_ms, T4=price)
    dear = cost_of(T4, most_token_ms=most_ms, T4=price * times)
    assert times_as_dear(dear, base) == pytest.approx(times)


def test_what_is_given_back_first_is_named_only_where_costs_differ() -> None:
    assert give_back_reason([]) == give_back_reason([3.4, 3.4]) == ""
    assert give_back_reason([1.0, 3.44]) == (
        "scales down first the GPU whose token costs 3.4 times as much"
    )
