"""What an engine's KV pool will hold, against a simulation that steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.admission.kv_pool import NO_LIMIT, AnswersLeft, Held, ends_before, peak_tokens

REQUESTS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), max_size=12)


def stepped_peak(requests: list[tuple[int, int]]) -> int:
    """The most that is held in any step, each with a token for all that have not ended."""
    peak = 0
    for step in range(1, 61):
        peak = max(peak, sum(tokens + step for tokens, left in requests if left >= step))
    return peak


@given(REQUESTS)
def test_the_peak_is_that_of_a_pool_that_is_stepped(requests: list[tuple[int, int]]) -> None:
    assert peak_tokens(requests) == stepped_peak(requests)


@given(REQUESTS, st.tuples(st.integers(0, 60), st.integers(1, 60)))
def test_one_more_never_lowers_the_peak(requests: list[Held], more: Held) -> None:
    assert peak_tokens([*requests, more]) >= peak_tokens(requests)


@given(REQUESTS)
def test_the_peak_is_at_most_what_all_hold_at_their_ends(requests: list[Held]) -> None:
    assert peak_tokens(requests) <= sum(tokens + left for tokens, left in requests)


LENGTHS = st.lists(st.integers(1, 4000), min_size=1, max_size=256)


@given(LENGTHS, st.floats(0, 5000), st.integers(1, 5000))
def test_what_is_left_is_at_least_a_token_and_within_the_limit(
    lengths: list[int], tokens: float, limit: int
) -> None:
    left = AnswersLeft.learn(lengths, 400.0).after(tokens, limit)
    assert left >= 1
    assert left == 1 or tokens + left <= limit + 1e-6


@given(LENGTHS, st.integers(0, 4000))
def test_of_what_is_left_the_mean_of_longer_ones_is_expected(
    lengths: list[int], tokens: int
) -> None:
    longer = [length - tokens for length in lengths if length > tokens]
    left = AnswersLeft.learn(lengths, 400.0).after(tokens, NO_LIMIT)
    expected = sum(longer) / len(longer) if longer else max(1.0, tokens / 2)
    assert left == pytest.approx(expected)


def test_before_any_answer_has_ended_it_may_go_to_its_limit() -> None:
    unknown = AnswersLeft.learn((), 400.0)
    assert unknown.after(100, 1024) == 924
    assert unknown.after(100, NO_LIMIT) == 300
    assert (unknown.whole_tokens(1024), unknown.whole_tokens(NO_LIMIT)) == (1024, 400)


def test_longer_answers_are_there_for_longer() -> None:
    alike, mixed = AnswersLeft.learn([100] * 10, 1), AnswersLeft.learn([10] * 9 + [910], 1)
    assert alike.held_tokens == pytest.approx(50)
    assert mixed.held_tokens > 4 * alike.held_tokens


@given(REQUESTS, st.tuples(st.integers(0, 60), st.integers(1, 60)), st.integers(60, 400))
def test_another_one_fits_when_so_many_have_ended_and_not_before(
    present: list[tuple[int, int]], one: tuple[int, int], pool_tokens: int
) -> None:
    ranked = sorted(present, key=lambda request: request[1])
    ends = ends_before(one, present, pool_tokens)

    def peak_after(count: int) -> int:
        passed = ranked[count - 1][1] if count else 0
        later = [(tokens + passed, left - passed) for tokens, left in ranked[count:]]
        at_once = one[0] + sum(tokens for tokens, _ in later)
        return max(at_once, stepped_peak([one, *later]))

    if ends < len(ranked):
        assert peak_after(ends) <= pool_tokens
    if ends:
        assert peak_after(ends - 1) > pool_tokens


def test_where_fewer_fit_than_run_the_next_end_leaves_no_room() -> None:
    # Each of four grows from 10 to 20, all at once, in a pool of 60; then 10 are left of it.
    assert ends_before((10, 10), [(10, 10)] * 4, 60) == 2
    assert ends_before((10, 10), [(10, 10)] * 2, 60) == 0
