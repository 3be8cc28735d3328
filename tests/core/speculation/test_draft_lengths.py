"""Which drafts are verified: never where that makes fewer tokens a second."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.speculation.draft_lengths import (
    LEAST_PLAIN_STEPS,
    LEAST_STEPS,
    Acceptance,
    Offered,
    StepCost,
    draft_lengths,
    observe_cost,
    observe_draft,
)

OFFERS = st.lists(
    st.builds(Offered, st.integers(0, 8), st.floats(0.0, 1.0)), min_size=1, max_size=12
)


def measured(plain_s: float, draft_s: float, row_s: float, *, drafts: tuple[int, ...]) -> StepCost:
    cost = StepCost()
    for _ in range(5 * LEAST_STEPS):
        cost = observe_cost(cost, took_s=plain_s, drafts=0)
        for count in drafts:
            cost = observe_cost(cost, took_s=plain_s + draft_s + row_s * count, drafts=count)
    return cost


@given(OFFERS, st.floats(1e-3, 0.1), st.floats(0.0, 0.05), st.floats(0.0, 0.02))
def test_what_is_chosen_makes_no_fewer_tokens_a_second_than_none(
    offered: list[Offered], plain_s: float, draft_s: float, row_s: float
) -> None:
    cost = measured(plain_s, draft_s, row_s, drafts=(1, 4, 8))
    lengths, _ = draft_lengths(offered, cost, sequences=len(offered))
    drafts = sum(lengths)
    accepted = sum(
        draft.chance**place
        for draft, length in zip(offered, lengths, strict=True)
        for place in range(1, length + 1)
    )
    assert all(0 <= k <= draft.tokens for k, draft in zip(lengths, offered, strict=True))
    rate = (len(offered) + accepted) / (plain_s + cost.beyond(drafts))
    assert rate >= len(offered) / plain_s


@given(st.floats(0.05, 0.95), st.integers(1, 8))
def test_rows_that_cost_nothing_take_all_and_dear_ones_none(chance: float, tokens: int) -> None:
    offered = [Offered(tokens, chance)]
    free = measured(0.01, 0.0, 0.0, drafts=(1, 4, 8))
    assert draft_lengths(offered, free, sequences=1)[0][0] >= (1 if chance > 0.03 else 0)
    dear = measured(0.01, 0.0, 0.01, drafts=(1, 2, 3))
    assert draft_lengths(offered, dear, sequences=1)[0] == [0]


@given(st.floats(0.1, 0.9), st.integers(1, 64))
def test_with_more_sequences_rows_are_worth_less(chance: float, sequences: int) -> None:
    """A step of n sequences takes 10 ms and 0.5 ms for each row."""

    def drafts(count: int) -> float:
        cost = measured(0.01 + 0.0005 * count, 0.0, 0.0005, drafts=(1, 4, 8))
        offered = [Offered(5, chance)] * count
        return sum(draft_lengths(offered, cost, sequences=count)[0]) / count

    assert drafts(2 * sequences) <= drafts(sequences) + 1e-9


def test_a_likely_draft_goes_before_a_long_one() -> None:
    cost = measured(0.01, 0.0, 0.002, drafts=(1, 4, 8))
    lengths, reason = draft_lengths([Offered(5, 0.1), Offered(5, 0.95)], cost, sequences=2)
    assert lengths[0] == 0
    assert lengths[1] > 2
    assert reason == "more tokens a second"


def test_steps_are_measured_before_they_are_compared() -> None:
    offered = [Offered(3, 0.9)]
    assert draft_lengths(offered, StepCost(), sequences=1)[0] == [0]
    cost = StepCost()
    for _ in range(LEAST_PLAIN_STEPS):
        assert draft_lengths(offered, cost, sequences=1)[0] == [0]
        cost = observe_cost(cost, took_s=0.01, drafts=0)
    assert draft_lengths(offered, cost, sequences=1)[0] == [3]
    assert draft_lengths([Offered(0, 0.9)], cost, sequences=1)[0] == [0]


@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 3), max_size=6))
def test_a_draft_is_accepted_as_far_as_it_is_what_was_made(
    drafted: list[int], made: list[int]
) -> None:
    seen = observe_draft(Acceptance(), drafted, made)
    assert seen.accepted <= min(len(drafted), len(made))
    assert seen.refused in (0, 1)
    assert 0.0 <= seen.chance(0.5) <= 1.0


def test_the_chance_follows_what_became_of_drafts() -> None:
    good = bad = Acceptance()
    for _ in range(50):
        good = observe_draft(good, (1, 2, 3), (1, 2, 3, 4))
        bad = observe_draft(bad, (1, 2, 3), (7,))
    assert good.chance(0.5) > 0.95
    assert bad.chance(0.5) < 0.1
    assert Acceptance().chance(0.3) == 0.3


def test_a_step_that_was_held_up_counts_as_three() -> None:
    cost = StepCost()
    for _ in range(40):
        cost = observe_cost(cost, took_s=0.01, drafts=0)
    held_up = observe_cost(cost, took_s=10.0, drafts=0)
    assert held_up.plain_s is not None
    assert held_up.plain_s < 0.011
