"""How the end of the reasoning is made likelier."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.reasoning.lean import Lean


@pytest.mark.parametrize(
    ("spent", "bias"), [(0, 0.0), (50, 0.0), (75, 4.0), (100, 8.0), (120, 8.0)]
)
def test_it_grows_evenly_to_the_budgets_end(spent: int, bias: float) -> None:
    assert Lean(8.0, 0.5).bias(spent, 100) == pytest.approx(bias)


def test_a_budget_of_nothing_leans_nowhere() -> None:
    assert Lean(8.0, 0.0).bias(3, 0) == 0.0


@given(
    most=st.floats(0, 100),
    begins_at=st.floats(0, 0.99),
    spent=st.integers(0, 5000),
    budget=st.integers(0, 5000),
)
def test_it_never_falls_and_stays_within_its_bounds(
    most: float, begins_at: float, spent: int, budget: int
) -> None:
    lean = Lean(most, begins_at)
    assert 0.0 <= lean.bias(spent, budget) <= lean.bias(spent + 1, budget) <= most
