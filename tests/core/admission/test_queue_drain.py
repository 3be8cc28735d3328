"""The drain says exactly when a first-come-first-served line starts its places."""

import heapq
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve_app.core.admission.queue_drain import (
    Drain,
    ServiceTime,
    batch_slowdown,
    drain_limit_s,
    estimate_drain,
    estimate_first_drain,
    observe_completion,
)
from tests.builders import a_drain

SERVICE_S = st.integers(1, 20).map(float)


@st.composite
def drains(draw: st.DrawFn) -> Drain:
    """No slot is busy for longer than a whole service, as in a line of equal requests."""
    service_s = draw(SERVICE_S)
    remaining = st.floats(0, service_s).map(lambda value: round(value, 2))
    return a_drain(draw(st.lists(remaining, min_size=1, max_size=6)), service_s)


def simulated_start_s(drain: Drain, ahead: int) -> float:
    """A line of `ahead` requests and one more in front of servers that become free one by one."""
    free_at_s = list(drain.remaining_s)
    heapq.heapify(free_at_s)
    for _ in range(ahead):
        heapq.heappush(free_at_s, heapq.heappop(free_at_s) + drain.service_s)
    return free_at_s[0]


@given(drains(), st.integers(0, 40))
def test_a_place_starts_when_a_simulated_line_starts_it(drain: Drain, ahead: int) -> None:
    assert drain.start_in_s(ahead) == pytest.approx(simulated_start_s(drain, ahead))


@given(drains(), st.integers(0, 40))
def test_places_start_in_order(drain: Drain, ahead: int) -> None:
    assert drain.start_in_s(ahead) <= drain.start_in_s(ahead + 1)


@given(drains(), st.floats(0, 100))
def test_the_number_of_places_within_a_wait_is_the_inverse_of_the_wait(
    drain: Drain, wait_s: float
) -> None:
    places = drain.starts_within(wait_s)
    assert drain.start_in_s(places) > wait_s - 1e-9
    if places:
        assert drain.start_in_s(places - 1) <= wait_s + 1e-9


def test_with_a_free_slot_nothing_waits() -> None:
    assert a_drain(remaining_s=(0.0, 3.0)).start_in_s(0) == 0.0


def test_whoever_has_nobody_before_and_a_place_to_spare_starts_at_once() -> None:
    assert a_drain().start_in_s(-1) == 0.0


def test_the_first_completion_replaces_the_derived_time() -> None:
    derived = ServiceTime(10.0)
    assert not derived.measured
    assert observe_completion(derived, 2.0) == ServiceTime(2.0, 1, mean_square_s2=4.0)


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_the_mean_converges_to_what_is_measured(before_s: float, now_s: float) -> None:
    service = ServiceTime(before_s, completions=50)
    for _ in range(400):
        service = observe_completion(service, now_s)
    assert service.mean_s == pytest.approx(now_s, rel=0.05, abs=0.01)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=40))
def test_the_mean_stays_within_what_was_measured(held_s: list[float]) -> None:
    service = ServiceTime(1000.0)
    for held in held_s:
        service = observe_completion(service, held)
    assert min(held_s) - 1e-6 <= service.mean_s <= max(held_s) + 1e-6


def test_the_first_completions_count_alike() -> None:
    service = ServiceTime(0.0)
    for held_s in (2.0, 4.0, 6.0):
        service = observe_completion(service, held_s)
    assert service.mean_s == pytest.approx(4.0)


def test_free_slots_are_free_now_and_busy_ones_after_what_is_left() -> None:
    drain = estimate_drain(ServiceTime(10.0, 5), (1.0, 4.0), slots=3)
    assert drain.remaining_s == (0.0, 6.0, 9.0)
    assert drain.service_s == 10.0


def test_requests_that_outlast_the_mean_raise_it_and_never_read_as_done() -> None:
    drain = estimate_drain(ServiceTime(1.0, 5), (30.0, 50.0), slots=2)
    assert drain.service_s == pytest.approx((5 * 1 + 30 + 50) / 7)
    assert min(drain.remaining_s) == pytest.approx(drain.service_s / 2)


def test_before_as_many_have_ended_as_run_a_late_one_has_half_of_its_time_behind_it() -> None:
    drain = estimate_drain(ServiceTime(1.0), (30.0, 50.0), slots=2)
    assert drain.service_s == pytest.approx((1 + 2 * (30 + 50)) / 3)


def test_where_answers_are_alike_the_oldest_one_is_about_to_end() -> None:
    alike = ServiceTime(10.0, 50, mean_square_s2=100.0)
    anywhere = ServiceTime(10.0, 50, mean_square_s2=400 / 3)
    assert estimate_drain(alike, (9.0,), slots=1).remaining_s[0] == pytest.approx(1.0)
    assert estimate_drain(anywhere, (9.0,), slots=1).remaining_s[0] == pytest.approx(5.0)


def test_each_ends_as_its_own_work_says() -> None:
    """Two whole ones, and a short one that has run for half of its time."""
    drain = estimate_drain(ServiceTime(10.0, 5), (1.0, 0.1, 4.0), slots=4, works=(1.0, 0.02, 1.0))
    assert drain.remaining_s == pytest.approx((0.0, 0.1, 6.0, 9.0))
    assert drain.service_s == 10.0


def test_a_short_one_that_is_late_says_little_about_whole_ones() -> None:
    """It counts by its work, as it would among short ones only."""
    whole = (*(1.0,) * 9, 0.01)
    drain = estimate_drain(ServiceTime(10.0, 50), (*(1.0,) * 9, 1.0), slots=10, works=whole)
    assert drain.service_s == pytest.approx(10.0, rel=0.01)
    ages_s = (1.0, 2.0, 0.1)
    short = estimate_drain(ServiceTime(10.0, 50), ages_s, slots=3, works=(0.01,) * 3)
    alone = estimate_drain(ServiceTime(0.1, 50), ages_s, slots=3)
    assert short.of_work(0.01).service_s == pytest.approx(alone.service_s)
    assert short.remaining_s == pytest.approx(alone.remaining_s)


def test_two_long_requests_among_many_do_not_turn_the_mean_over() -> None:
    assert estimate_drain(ServiceTime(1.0, 1000), (5.0, 5.0), slots=2).service_s < 1.3


@given(st.floats(0.1, 10), st.integers(0, 50), st.lists(st.floats(0, 50), max_size=8))
def test_requests_younger_than_the_mean_say_nothing_about_it(
    mean_s: float, completions: int, ages_s: list[float]
) -> None:
    young = tuple(min(age, mean_s) for age in ages_s)
    drain = estimate_drain(ServiceTime(mean_s, completions), young, slots=8)
    assert drain.service_s == pytest.approx(mean_s)


def test_after_the_slots_were_lowered_the_line_waits_for_all_but_the_last_requests() -> None:
    # Four run on two slots: the first one that waits starts when the third of them has ended.
    drain = estimate_drain(ServiceTime(10.0, 5), (4.0, 3.0, 2.0, 1.0), slots=2)
    assert drain.remaining_s == (8.0, 9.0)


@given(SERVICE_S, st.lists(st.floats(0, 100), max_size=12), st.integers(1, 8))
def test_an_estimate_has_one_time_for_each_slot_and_is_never_negative(
    mean_s: float, ages_s: list[float], slots: int
) -> None:
    drain = estimate_drain(ServiceTime(mean_s, 1), tuple(ages_s), slots)
    assert len(drain.remaining_s) == slots
    assert list(drain.remaining_s) == sorted(drain.remaining_s)
    assert drain.remaining_s[0] >= 0
    if len(ages_s) >= slots:
        assert drain.remaining_s[0] > 0


@given(st.integers(1, 5), st.integers(1, 12))
def test_the_whole_line_is_worked_off_at_littles_rate(slots: int, turns: int) -> None:
    assume(turns > 0)
    drain = a_drain(remaining_s=(0.0,) * slots, service_s=3.0)
    assert drain.start_in_s(slots * turns) == pytest.approx(3.0 * turns)
    assert drain.starts_within(3.0 * turns - 0.001) == slots * turns


def test_a_stop_leaves_time_for_the_line_and_the_longest_answer() -> None:
    limit = drain_limit_s(max_new_tokens=1000, token_s=0.02, queue_wait_s=10.0)
    assert limit.seconds == pytest.approx(1.5 * (10 + 20))
    assert "1000 tokens at 20.0 ms" in limit.reason


@given(st.integers(1, 4000), st.floats(0, 1), st.floats(0, 60))
def test_a_stop_is_never_shorter_than_what_it_waits_for(
    tokens: int, token_s: float, wait_s: float
) -> None:
    limit = drain_limit_s(max_new_tokens=tokens, token_s=token_s, queue_wait_s=wait_s)
    assert limit.seconds >= max(5.0, wait_s + tokens * token_s)
    assert math.isfinite(limit.seconds)


def test_a_step_with_few_sequences_is_faster_than_a_full_one() -> None:
    assert batch_slowdown(0.06, 29, 29) == 1.0
    assert batch_slowdown(0.06, 40, 29) == 1.0
    assert batch_slowdown(0.06, 1, 29) == pytest.approx(1.06 / 2.74)
    assert batch_slowdown(0.0, 1, 29) == 1.0


def test_alike_times_have_no_spread_and_times_from_nothing_to_twice_the_mean_have_all_of_it() -> (
    None
):
    alike, anywhere = ServiceTime(0.0), ServiceTime(0.0)
    for step in range(33):
        alike = observe_completion(alike, 4.0)
        anywhere = observe_completion(anywhere, 8.0 * (step * 7 % 33 + 0.5) / 33)
    assert alike.spread == pytest.approx(0.0, abs=1e-6)
    assert anywhere.spread == pytest.approx(1.0, abs=0.01)


def test_the_spread_of_more_work_is_the_same() -> None:
    service = ServiceTime(4.0, 9, mean_square_s2=17.0)
    assert service.times(2.5).mean_s == 10.0
    assert service.times(2.5).spread == pytest.approx(service.spread)


def test_many_slots_whose_answers_end_anywhere_become_free_at_the_rate_of_littles_law() -> None:
    """240 slots of 64 s free one each 0.27 s: 37 of a line begin within 10 s, and not none of
    them, though no single answer is likely to end by then."""
    service = ServiceTime(64.0, 500, mean_square_s2=64.0**2 * 4 / 3)
    ages_s = tuple(64.0 * (k + 0.5) / 240 for k in range(240))
    drain = estimate_drain(service, ages_s, slots=240)
    assert drain.starts_within(10.0) == pytest.approx(10.0 / (64.0 / 240), abs=1)


def test_many_slots_whose_answers_are_all_alike_become_free_when_each_is_due() -> None:
    service = ServiceTime(64.0, 500, mean_square_s2=64.0**2)
    drain = estimate_drain(service, (10.0,) * 240, slots=240)
    assert drain.starts_within(53.0) == 0
    assert drain.starts_within(55.0) == 240


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=40),
    st.floats(0.1, 50),
    st.floats(0, 5),
    st.integers(0, 100),
)
def test_slots_become_free_in_order_whatever_the_spread(
    ages_s: list[float], mean_s: float, variation: float, completions: int
) -> None:
    service = ServiceTime(mean_s, completions, mean_square_s2=mean_s**2 * (1 + variation))
    remaining_s = estimate_drain(service, tuple(ages_s), slots=len(ages_s)).remaining_s
    assert list(remaining_s) == sorted(remaining_s)
    assert min(remaining_s) >= 0


AGES_AND_LIMITS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 500)), max_size=20)


def first_drain(ages_and_left: list[tuple[float, float]], slots: int, expected_s: float) -> Drain:
    ages_s, left_s = [one[0] for one in ages_and_left], [one[1] for one in ages_and_left]
    return estimate_first_drain(expected_s, ages_s, left_s, slots)


@given(AGES_AND_LIMITS, st.integers(1, 24), st.floats(0.1, 50))
def test_before_any_has_ended_slots_become_free_in_order_and_within_the_limits(
    ages_and_left: list[tuple[float, float]], slots: int, expected_s: float
) -> None:
    drain = first_drain(ages_and_left, slots, expected_s)
    busy = sorted(left for _, left in ages_and_left)
    assert len(drain.remaining_s) == slots
    assert list(drain.remaining_s) == sorted(drain.remaining_s)
    latest = ([0.0] * (slots - len(busy)) + busy)[-slots:]
    assert all(free <= most for free, most in zip(drain.remaining_s, latest, strict=True))


@given(st.integers(1, 70), st.floats(0.1, 60), st.floats(0.1, 60), st.floats(1, 50))
def test_the_longer_nobody_ends_the_later_is_the_first_end_expected(
    running: int, age_s: float, more_s: float, expected_s: float
) -> None:
    young = first_drain([(age_s, 1e6)] * running, running, expected_s)
    old = first_drain([(age_s + more_s, 1e6)] * running, running, expected_s)
    assert old.remaining_s[0] == pytest.approx(young.remaining_s[0] + more_s)
    assert old.remaining_s[0] >= age_s + more_s


def test_whoever_has_just_begun_ends_as_expected() -> None:
    drain = first_drain([(0.0, 1e6)] * 70, 70, expected_s=10.0)
    assert drain.remaining_s[0] == pytest.approx(10.0 / 70)
    assert sum(drain.remaining_s) / 70 == pytest.approx(10.0)


def test_a_first_generation_of_long_answers_lets_nobody_wait_for_what_will_not_end() -> None:
    """70 have run for 30 s, expected to take 11: one end or two in as long again."""
    ages_and_left = [(30.0, 120.0)] * 70
    assert first_drain(ages_and_left, 70, expected_s=11.0).starts_within(8.0) == 0
