"""The Retry-After of refused clients, and who of them is known again."""

from serve_app.core.admission.retry_reservations import LATE_S, RetryReservations


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
