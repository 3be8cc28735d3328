"""Moments that a random course seldom meets: late and repeated messages around midnight, a death,
and a limit on concurrency."""

from dataclasses import replace

from serve_app.core.access.access_key import AccessKey, KeyLimits, KeyRecord, KeySnapshot
from serve_app.core.access.lease import Amounts, KeyReport
from serve_app.core.access.lease_book import LeaseBook, Reservation
from serve_app.core.access.ledger_state import LedgerState

DAY_S = 86_400.0
NOON_S = 20_000 * DAY_S + DAY_S / 2


class Pair:
    """A ledger with two replicas and one key."""

    def __init__(self, *, offline_leases: bool = False, **limits: int) -> None:
        self.key = AccessKey("ada", limits=KeyLimits(**limits))
        self.now_s = NOON_S
        self.ledger = LedgerState(lease_ttl_s=10.0, offline_leases=offline_leases)
        self.ledger.set_keys(KeySnapshot(1, (KeyRecord("id", b"", self.key),)), self.now_s)
        self.first, self.second = LeaseBook("r1"), LeaseBook("r2")
        self.talk(self.first, self.second)

    def talk(self, *books: LeaseBook) -> None:
        for book in books:
            answer = self.ledger.report(book.report(self.now_s), self.now_s)
            book.apply(answer, self.now_s)

    def request(self, book: LeaseBook, tokens: int) -> Reservation | None:
        ask = book.ask(self.key, Amounts(1, tokens, 1))
        self.talk(book)
        if ask.pending:
            book.give_up(ask)
        return ask.reservation

    @property
    def day_tokens(self) -> int:
        return self.ledger.quotas["ada"].day_tokens


def test_a_refund_of_yesterday_does_not_lengthen_today() -> None:
    pair = Pair(tokens_per_day=1000)
    reservation = pair.request(pair.first, 800)
    assert reservation is not None
    pair.talk(pair.first)
    pair.first.settle(reservation, Amounts(1, 100))
    late = pair.first.report(pair.now_s)  # built before midnight, read after it
    pair.now_s += DAY_S
    pair.talk(pair.second)
    assert pair.request(pair.second, 900) is not None
    before = pair.day_tokens

    pair.first.apply(pair.ledger.report(late, pair.now_s), pair.now_s)

    assert pair.day_tokens == before


def test_a_lease_that_lies_idle_at_midnight_counts_for_the_new_day() -> None:
    pair = Pair(tokens_per_day=1000)
    ask = pair.first.ask(pair.key, Amounts(1, 600, 1))
    pair.ledger.report(pair.first.report(pair.now_s), pair.now_s)  # granted; its answer is late
    pair.now_s += DAY_S
    idle = pair.ledger.idle("ada").tokens
    assert idle >= 600
    assert pair.request(pair.second, 1001 - idle) is None
    assert pair.request(pair.second, 1000 - idle) is not None
    assert ask.pending


def test_an_old_report_that_comes_late_does_not_free_what_is_reserved() -> None:
    pair = Pair(tokens_per_day=1000, max_concurrent=1)
    old = pair.first.report(pair.now_s)
    pair.first.ask(pair.key, Amounts(1, 1000, 1))
    old = replace(old, keys={"ada": KeyReport()})
    pair.talk(pair.first, pair.first)

    pair.ledger.report(old, pair.now_s)
    pair.ledger.forget("r1", pair.now_s)

    assert pair.request(pair.second, 1) is None


def test_an_answer_from_before_its_death_gives_a_replica_nothing() -> None:
    pair = Pair(tokens_per_day=1000)
    ask = pair.first.ask(pair.key, Amounts(1, 1000, 1))
    answer = pair.ledger.report(pair.first.report(pair.now_s), pair.now_s)
    pair.first.give_up(ask)
    pair.ledger.forget("r1", pair.now_s)
    assert pair.request(pair.second, 1000) is not None
    pair.talk(pair.first)

    pair.first.apply(answer, pair.now_s)

    assert pair.first.reserve(pair.key, Amounts(1, 1, 1), pair.now_s) is None


def test_what_lay_idle_at_a_replica_that_was_taken_for_dead_is_gone() -> None:
    pair = Pair(tokens_per_day=1000)
    ask = pair.first.ask(pair.key, Amounts(1, 900, 1))
    pair.talk(pair.first)
    pair.first.give_up(ask)
    # Granted, and what it gives back has not reached the ledger.
    reservation = pair.request(pair.first, 50)
    pair.talk(pair.first)
    idle = pair.ledger.replicas["r1"].keys["ada"].idle.tokens
    assert idle > 0
    pair.ledger.forget("r1", pair.now_s)
    left = 1000 - pair.day_tokens
    assert pair.request(pair.second, left) is not None

    pair.talk(pair.first)

    assert reservation is not None
    assert not reservation.void
    assert pair.first.reserve(pair.key, Amounts(1, 1, 1), pair.now_s) is None


def test_a_repeated_answer_to_what_was_not_read_acknowledges_nothing() -> None:
    pair = Pair(tokens_per_day=1000)
    pair.ledger.forget("r1", pair.now_s)
    pair.first.ask(pair.key, Amounts(1, 10, 1))
    void = pair.ledger.report(pair.first.report(pair.now_s), pair.now_s)
    pair.first.apply(void, pair.now_s)
    assert pair.first.report_due
    pair.first.apply(void, pair.now_s)
    assert "ada" in pair.first.report(pair.now_s).keys


def test_idle_concurrency_is_leased_too() -> None:
    pair = Pair(max_concurrent=8)
    held = [pair.request(pair.first, 1) for _ in range(6)]
    pair.talk(pair.first)
    for reservation in held:
        assert reservation is not None
        pair.first.settle(reservation, Amounts(1, 1))
    pair.talk(pair.first)
    assert pair.ledger.idle("ada").concurrent > 0
    taken = [pair.request(pair.second, 1) for _ in range(8)]
    again = [pair.first.reserve(pair.key, Amounts(1, 1, 1), pair.now_s) for _ in range(8)]
    running = sum(each is not None for each in (*taken, *again))
    assert running == 8


def test_after_a_pause_of_its_own_the_ledger_takes_nobody_for_dead() -> None:
    pair = Pair(tokens_per_day=1000)
    reservation = pair.request(pair.first, 600)
    pair.now_s += 60.0
    pair.talk(pair.second, pair.first)
    assert reservation is not None
    assert not reservation.void
    assert pair.first.acknowledged(reservation)


def test_a_replica_that_was_heard_just_before_its_death_spent_nothing_offline() -> None:
    pair = Pair(offline_leases=True, tokens_per_day=1000)
    pair.first.ask(pair.key, Amounts(1, 1000, 1))
    pair.talk(pair.first)
    pair.now_s += 1.0
    pair.ledger.forget("r1", pair.now_s)
    assert pair.request(pair.second, 1000) is not None


def test_one_that_was_silent_before_its_death_may_have() -> None:
    pair = Pair(offline_leases=True, tokens_per_day=1000)
    pair.first.ask(pair.key, Amounts(1, 1000, 1))
    pair.talk(pair.first)
    pair.now_s += 5.0
    pair.ledger.forget("r1", pair.now_s)
    assert pair.request(pair.second, 1) is None


def test_leases_that_a_ledger_does_not_know_are_not_honoured_nor_drawn_again() -> None:
    """Its database was lost: it begins with full quotas, and the replica with none."""
    pair = Pair(tokens_per_day=1000)
    running = pair.request(pair.first, 300)
    pair.talk(pair.first)
    fresh = Pair(tokens_per_day=1000)
    fresh.first = pair.first
    del fresh.ledger.replicas["r1"]

    fresh.talk(fresh.first, fresh.first)

    spent = fresh.day_tokens - fresh.ledger.idle("ada").tokens
    assert spent == 300
    assert running is not None
    fresh.first.settle(running, Amounts(1, 100))
    fresh.talk(fresh.first)
    assert fresh.day_tokens - fresh.ledger.idle("ada").tokens == 100
