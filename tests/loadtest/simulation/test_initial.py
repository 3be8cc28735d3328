"""What a run begins with."""

import pytest

from loadtest.simulation.cell import cell_of
from loadtest.simulation.constant import ConstantReplicas
from loadtest.simulation.initial import initial_replicas
from loadtest.simulation.run import Bounds, GivenUp, simulate, simulate_cell
from loadtest.simulation.setup import Setup
from serve_app.core.tiers import Tier
from tests.loadtest.simulation.builders import traffic

SETUP = Setup(gpus={"T4": 8})


def test_a_quiet_beginning_needs_one_replica_whatever_comes_later() -> None:
    trace = traffic((Tier.CHAT, 0, 300, 0.5), (Tier.CHAT, 130, 300, 30.0))
    assert initial_replicas(trace, SETUP) == {Tier.CHAT: 1}


def test_more_load_needs_more_and_each_tier_has_its_own() -> None:
    light = initial_replicas(traffic((Tier.CHAT, 0, 300, 8.0)), SETUP)
    heavy = initial_replicas(traffic((Tier.CHAT, 0, 300, 24.0)), SETUP)
    assert 1 < light[Tier.CHAT] < heavy[Tier.CHAT] <= 8
    both = initial_replicas(
        traffic((Tier.CHAT, 0, 300, 8.0), (Tier.REASONING, 150, 300, 8.0)), SETUP
    )
    assert both == {Tier.CHAT: light[Tier.CHAT], Tier.REASONING: 1}


def test_together_they_are_not_more_than_there_are() -> None:
    trace = traffic((Tier.CHAT, 0, 200, 40.0), (Tier.REASONING, 0, 200, 40.0))
    begun = initial_replicas(trace, SETUP)
    assert sum(begun.values()) <= 8
    assert min(begun.values()) >= 1


def test_a_run_that_begins_so_is_as_good_at_first_as_with_all_gpus() -> None:
    trace = traffic((Tier.CHAT, 0, 118, 16.0))
    begun = initial_replicas(trace, SETUP)
    good = [
        simulate(trace, Setup(gpus={"T4": 8}, initial=counts), ConstantReplicas(counts)).goodput
        for counts in (begun, {Tier.CHAT: 8}, {Tier.CHAT: begun[Tier.CHAT] - 1})
    ]
    assert good[0] >= 0.99 * good[1] > good[2]


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_a_run_is_given_up_only_beyond_its_bounds(replicas: int) -> None:
    trace, counts = traffic((Tier.CHAT, 0, 200, 14.0)), {Tier.CHAT: replicas}
    setup = Setup(gpus={"T4": 4}, initial=counts)
    cell = cell_of(trace, setup)
    whole = simulate_cell(cell, setup, ConstantReplicas(counts))
    within = Bounds(whole.gpu_hours, 1 - whole.goodput)
    assert simulate_cell(cell, setup, ConstantReplicas(counts), within) == whole
    cheaper = Bounds(gpu_hours=0.8 * whole.gpu_hours)
    with pytest.raises(GivenUp):
        simulate_cell(cell, setup, ConstantReplicas(counts), cheaper)
    if whole.goodput < 0.9:
        with pytest.raises(GivenUp):
            simulate_cell(
                cell, setup, ConstantReplicas(counts), Bounds(bad=0.5 * (1 - whole.goodput))
            )


def test_in_a_cell_it_is_whole_simulated_replicas() -> None:
    trace = traffic((Tier.CHAT, 0, 150, 30.0))
    begun = initial_replicas(trace, Setup(gpus={"T4": 16}, weight=4))
    assert begun[Tier.CHAT] % 4 == 0


@pytest.mark.parametrize(
    ("text", "begun"),
    [("auto", None), ("3", {Tier.CHAT: 3, Tier.REASONING: 3}), ("chat=2", {Tier.CHAT: 2})],
)
def test_the_option_is_a_number_or_numbers_by_tier_or_auto(
    text: str, begun: dict[Tier, int] | None
) -> None:
    from loadtest.simulation.option_types import initial

    assert initial(text) == begun
