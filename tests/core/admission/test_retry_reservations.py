"""The Retry-After of refused clients, and who of them is known again."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.admission.retry_reservations import (
    LATE_S,
    MOST_DUE,
    MOST_DUE_POINTS,
    RetryReservations,
)


def test_a_reservation_is_redeemed_once_when_its_time_has_come() -> None:
    reservations = RetryReservations()
    reservations.add(7, due_s=10.0)
    assert not reservations.redeem(7, now_s=5.0)
    assert reservations.redeem(7, now_s=10.0)
    assert not reservations.redeem(7, now_s=10.0)


def test_another_request_does_not_redeem_it() -> None:
    reservations = RetryReservations()
    reservations.add(7, due_s=10.0)
    assert not reservations.redeem(8, now_s=10.0)
    assert reservations.outstanding(10.0) == 1


def test_the_work_that_is_due_is_that_of_those_who_are() -> None:
    reservations = RetryReservations()
    reservations.add(7, due_s=10.0, work=0.25)
    reservations.add(8, due_s=11.0)
    assert (len(reservations), reservations.work) == (2, 1.25)
    assert reservations.redeem(7, now_s=10.0)
    assert (len(reservations), reservations.work) == (1, 1.0)
    reservations.withdraw(8, due_s=11.0)
    assert (len(reservations), reservations.work) == (0, 0.0)


def test_who_comes_a_little_late_is_still_expected_and_later_no_more() -> None:
    reservations = RetryReservations()
    reservations.add(7, due_s=10.0)
    assert reservations.outstanding(10.0 + LATE_S) == 1
    assert reservations.outstanding(10.0 + LATE_S + 0.1) == 0
    assert not reservations.redeem(7, now_s=10.0 + LATE_S + 0.1)


def test_a_client_that_says_it_retries_is_known_even_if_it_comes_early() -> None:
    reservations = RetryReservations()
    reservations.add(7, due_s=100.0)
    assert reservations.redeem(7, now_s=1.0, retried=True)
    assert reservations.outstanding(1.0) == 0


def test_a_client_that_was_not_refused_is_none_that_retries_whatever_it_says() -> None:
    reservations = RetryReservations()
    reservations.add(7, due_s=10.0)
    assert not reservations.redeem(8, now_s=10.0, retried=True)
    assert not reservations.redeem(None, now_s=10.0, retried=True)


def test_requests_without_a_key_are_counted_but_never_known_again() -> None:
    reservations = RetryReservations()
    reservations.add(None, due_s=10.0)
    assert reservations.outstanding(0.0) == 1
    assert not reservations.redeem(None, now_s=10.0)


def test_retries_that_do_not_come_are_expected_less() -> None:
    reservations = RetryReservations()
    for due_s in range(200):
        reservations.add(due_s, due_s=float(due_s))
    reservations.outstanding(100.0)
    assert reservations.outstanding(100.0) < 50
    for key in range(100, 200):
        reservations.redeem(key, now_s=float(key))
    reservations.add(1, due_s=300.0)
    reservations.add(2, due_s=300.0)
    assert reservations.outstanding(200.0) == 2


def test_equal_requests_each_redeem_one() -> None:
    reservations = RetryReservations()
    for due_s in (1.0, 1.0, 5.0):
        reservations.add(7, due_s)
    assert [reservations.redeem(7, now_s=1.5) for _ in range(3)] == [True, True, False]
    assert reservations.redeem(7, now_s=5.0)


@given(st.lists(st.floats(0, 100), max_size=40), st.floats(0, 120), st.floats(0.01, 20))
def test_a_free_time_is_so_far_from_all_that_is_reserved(
    due_s: list[float], from_s: float, apart_s: float
) -> None:
    reservations = RetryReservations()
    for one_s in due_s:
        reservations.add(1, one_s)
    free_s = reservations.next_free_s(from_s, apart_s)
    assert free_s >= from_s
    assert all(abs(free_s - one_s) >= apart_s - 1e-9 for one_s in due_s)


def test_a_gap_among_reservations_is_used_before_the_time_behind_them() -> None:
    reservations = RetryReservations()
    for due_s in (10.0, 11.0, 12.0, 14.0, 15.0):
        reservations.add(1, due_s)
    assert reservations.next_free_s(10.0, 1.0) == 13.0
    assert reservations.next_free_s(13.5, 1.0) == 16.0
    assert reservations.next_free_s(30.0, 1.0) == 30.0


def test_those_that_come_within_a_time_are_as_many_as_retry() -> None:
    reservations = RetryReservations()
    for due_s in (1.0, 2.0, 30.0):
        reservations.add(7, due_s)
    assert reservations.due_by(1.5, 10.0) == ((0.0, 1), (0.5, 2))
    for number in range(100):
        reservations.add(None, 40.0 + number / 10)
    assert reservations.outstanding(60.0) == 0
    for due_s in (61.0, 62.0, 63.0, 64.0, 65.0, 66.0, 67.0, 68.0):
        reservations.add(7, due_s)
    # 103 of those who were refused have not come, and an eighth is expected.
    assert reservations.due_by(60.0, 10.0) == ((1.0, 1),)


@given(st.integers(0, 500), st.floats(0, 600))
def test_of_thousands_that_are_due_few_are_looked_at(count: int, within_s: float) -> None:
    """Evenly among them, each with all that come before it."""
    reservations = RetryReservations()
    for number in range(count):
        reservations.add(number, float(number))
    due_by = reservations.due_by(0.0, within_s)
    within = min(count, math.ceil(within_s))
    assert len(due_by) == min(within, MOST_DUE_POINTS)
    assert all(in_s == number - 1 for in_s, number in due_by)
    if within:
        assert due_by[-1].retries == within
        counts = [0, *(number for _, number in due_by)]
        apart = {after - before for before, after in pairwise(counts)}
        assert max(apart) - min(apart) <= 1


def test_nobody_takes_a_reservation_before_its_client_is_to_come() -> None:
    reservations = RetryReservations()
    reservations.add(7, due_s=10.2, later_s=0.8)
    assert not reservations.redeem(7, now_s=10.5)
    assert reservations.redeem(7, now_s=11.0)


def test_a_withdrawn_reservation_is_forgotten_however_much_later_its_client_comes() -> None:
    reservations = RetryReservations()
    reservations.add(7, due_s=10.2, later_s=0.8)
    reservations.withdraw(7, 10.2)
    assert reservations.outstanding(1.0) == 0


def test_a_search_among_very_many_ends_behind_them() -> None:
    reservations = RetryReservations()
    for number in range(3000):
        reservations.add(1, number / 100)
    assert reservations.next_free_s(0.0, 0.02) == pytest.approx(29.99 + 0.02)


def test_a_flood_has_no_more_than_its_part_of_memory() -> None:
    reservations = RetryReservations()
    kept = [reservations.add(key, due_s=10.0 + key) for key in range(MOST_DUE + 5)]
    assert kept == [True] * MOST_DUE + [False] * 5
    assert reservations.outstanding(0.0) == MOST_DUE
    assert reservations.redeem(0, now_s=10.0)
    assert reservations.add(MOST_DUE, due_s=10.0)
