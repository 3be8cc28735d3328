"""The ledger over a real database, SQLite and PostgreSQL: what it grants, what comes back, what
survives, and what it does when the database fails."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from serve_app.access.ledger import Ledger
from serve_app.access.ledger_owner import LedgerError, LedgerSupersededError
from serve_app.core.access.lease import Amounts, Usage, UsageLabels
from serve_app.core.access.lease_book import LeaseBook
from serve_app.core.tiers import Tier
from tests.access.builders import Service, key, need, used

Services = Callable[..., Service]


def test_a_request_is_granted_what_it_asks_for_and_the_ledger_knows_it(services: Services) -> None:
    ada = key(tokens_per_minute=1000)
    service = services(ada)
    book = service.replica("r1")

    reservation = service.request(book, ada, 600)

    assert reservation is not None
    assert not book.acknowledged(reservation)
    service.talk(book)
    assert book.acknowledged(reservation)


@pytest.mark.parametrize("limit", ["tokens_per_minute", "tokens_per_day"])
def test_a_burst_over_two_replicas_gets_exactly_what_fits(services: Services, limit: str) -> None:
    ada = key("ada", **{limit: 10_000})
    service = services(ada)
    books = [service.replica("r1"), service.replica("r2")]

    asks = [books[i % 2].ask(ada, need(700)) for i in range(64)]
    for _ in range(4):
        service.talk(*books)

    assert sum(ask.reservation is not None for ask in asks) == 14
    refused = [ask.refusal for ask in asks if ask.refusal]
    assert len(refused) == 50
    assert all(refusal.limit == limit for refusal in refused)


def test_leases_that_lie_idle_elsewhere_are_recalled_for_a_request(services: Services) -> None:
    ada = key(tokens_per_day=10_000)
    service = services(ada)
    first, second = service.replica("r1"), service.replica("r2")
    for _ in range(4):
        reservation = service.request(first, ada, 700)
        assert reservation is not None
        service.talk(first)
        first.settle(reservation, used(700))
    service.talk(first)
    # 2,800 are spent, and the first replica holds some of the rest for what comes.
    ask = second.ask(ada, need(7200))
    service.talk(second)
    assert ask.pending

    service.talk(first, first, second)

    assert ask.reservation is not None


def test_what_was_not_used_can_be_used_by_the_next(services: Services) -> None:
    ada = key(tokens_per_minute=1000)
    service = services(ada)
    first, second = service.replica("r1"), service.replica("r2")
    reservation = service.request(first, ada, 1000)
    assert reservation is not None
    assert service.request(second, ada, 100) is None

    first.settle(reservation, used(300))
    service.talk(first)

    assert service.request(second, ada, 701) is None
    assert service.request(second, ada, 700) is not None


def test_a_refusal_says_when_to_retry(services: Services) -> None:
    ada = key(tokens_per_minute=1000)
    service = services(ada)
    book = service.replica("r1")
    assert service.request(book, ada, 900) is not None
    ask, larger = book.ask(ada, need(600)), book.ask(ada, need(1001))
    service.talk(book)

    assert ask.refusal is not None
    assert ask.refusal.retry_after_s == pytest.approx(30.0)
    # Both were refused with what the first one met; on its own the larger one never fits.
    assert larger.refusal is not None
    never = book.ask(ada, need(1001))
    service.talk(book)
    assert never.refusal is not None
    assert never.refusal.retry_after_s is None

    service.clock.now_s += 30.0
    assert service.request(book, ada, 600) is not None


def test_a_ledger_that_was_killed_forgets_nothing(services: Services) -> None:
    ada = key(tokens_per_minute=1000, max_concurrent=1)
    service = services(ada)
    first, second = service.replica("r1"), service.replica("r2")
    reservation = service.request(first, ada, 900)
    service.talk(first)

    service.restart()

    assert service.request(second, ada, 101) is None
    assert reservation is not None
    first.settle(reservation, used(900))
    service.talk(first)
    assert service.request(second, ada, 101) is None
    assert service.request(second, ada, 100) is not None


def test_the_lease_of_a_replica_that_has_died_comes_back(services: Services) -> None:
    ada = key(tokens_per_day=1000, max_concurrent=1)
    service = services(ada)
    dead, alive = service.replica("r1"), service.replica("r2")
    # Granted, and dead before the ledger heard of a reservation: nothing was answered.
    dead.ask(ada, need(1000))
    service.talk(dead)
    assert service.request(alive, ada, 1000) is None

    service.ledger.forget("r1")

    assert service.request(alive, ada, 1000) is not None


def test_what_a_dead_replica_had_reserved_is_spent_and_its_concurrency_comes_back(
    services: Services,
) -> None:
    ada = key(tokens_per_day=1000, max_concurrent=1)
    service = services(ada)
    dead, alive = service.replica("r1"), service.replica("r2")
    assert service.request(dead, ada, 600) is not None
    service.talk(dead)

    for _ in range(4):
        service.clock.now_s += 3.0
        service.talk(alive)

    assert service.request(alive, ada, 401) is None
    assert service.request(alive, ada, 400) is not None


def test_a_replica_that_was_taken_for_dead_may_not_answer_what_the_ledger_did_not_know(
    services: Services,
) -> None:
    ada = key(tokens_per_day=1000)
    service = services(ada)
    silent, alive = service.replica("r1"), service.replica("r2")
    ask = silent.ask(ada, need(1000))
    service.talk(silent)
    assert ask.reservation is not None
    service.ledger.forget("r1")
    assert service.request(alive, ada, 1000) is not None

    service.talk(silent)

    assert ask.reservation.void
    assert not silent.acknowledged(ask.reservation)
    service.talk(silent)
    assert service.request(silent, ada, 1) is None


def test_what_a_replica_may_have_spent_offline_stays_spent_until_it_is_heard(
    services: Services,
) -> None:
    ada = key(tokens_per_day=1000)
    service = services(ada, offline_leases=True)
    silent, alive = service.replica("r1"), service.replica("r2")
    silent.ask(ada, need(600))
    service.talk(silent)  # granted, and answered without the ledger
    for _ in range(4):
        service.clock.now_s += 3.0
        service.talk(alive)
    assert service.request(alive, ada, 401) is None

    service.talk(silent, silent)

    assert service.request(alive, ada, 401) is None
    assert service.request(alive, ada, 400) is not None


def test_other_limits_hold_for_leases_that_are_out(services: Services) -> None:
    ada = key(tokens_per_day=1000, max_concurrent=2)
    service = services(ada)
    book = service.replica("r1")
    assert service.request(book, ada, 600) is not None

    service.limits(ada, tokens_per_day=700, max_concurrent=2)
    service.talk(book)

    assert service.request(book, ada, 101) is None
    assert service.request(book, ada, 100) is not None
    service.limits(ada, tokens_per_day=5000, max_concurrent=2)
    service.talk(book)
    assert service.request(book, ada, 10) is None  # two run
    service.limits(ada, tokens_per_day=5000)
    service.talk(book)
    assert service.request(book, ada, 4300) is not None


def test_a_revoked_key_is_gone_at_the_next_report_and_what_runs_goes_on(services: Services) -> None:
    ada = key(tokens_per_day=1000)
    service = services(ada)
    book = service.replica("r1")
    reservation = service.request(book, ada, 600)
    assert reservation is not None

    service.store.revoke("ada")
    service.talk(book)

    assert book.snapshot.records == ()
    assert service.request(book, ada, 1) is None
    book.settle(reservation, used(100))
    service.talk(book)


def test_usage_counts_once_however_often_it_is_reported(services: Services) -> None:
    service = services(key())
    book = service.replica("r1")
    labels = UsageLabels("ada", Tier.CHAT, "micro-r1", "2024-10-04")
    book.count(labels, Usage(requests=1, prompt_tokens=10, reasoning_tokens=5, answer_tokens=7))
    report = book.report(service.clock())

    answer = service.ledger.report(report)
    service.ledger.report(report)
    service.restart()
    service.ledger.report(report)
    book.apply(answer, service.clock())
    book.count(labels, Usage(requests=1, refused=1, gpu_s=0.5))
    service.talk(book)

    (row,) = service.ledger.usage()
    assert (row.requests, row.refused, row.prompt_tokens) == (2, 1, 10)
    assert (row.reasoning_tokens, row.answer_tokens, row.gpu_s) == (5, 7, 0.5)
    assert service.ledger.usage(since_day="2024-10-05") == []
    assert service.ledger.usage(key="bob") == []


def test_nothing_of_a_report_is_in_force_whose_commit_failed(services: Services) -> None:
    ada = key(tokens_per_day=1000)
    service = services(ada)
    book = service.replica("r1")
    ask = book.ask(ada, need(1000))
    lost = book.report(service.clock())
    with service.database.transaction() as connection:
        connection.execute(sa.text("ALTER TABLE tierserve_leases RENAME TO elsewhere"))
    with pytest.raises(LedgerError):
        service.ledger.report(lost)
    with service.database.transaction() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO tierserve_leases"))

    other = service.replica("r2")
    assert service.request(other, ada, 1000) is not None
    service.talk(book)
    assert ask.reservation is None


def test_a_ledger_ends_where_another_one_has_taken_over(services: Services) -> None:
    service = services(key())
    book = LeaseBook("r1")
    old = service.ledger
    service.restart()

    with pytest.raises(LedgerSupersededError, match="Another ledger"):
        old.report(book.report(service.clock()))
    # Not by way of a retry either.
    with pytest.raises(LedgerSupersededError):
        old.forget("r1")
    service.talk(book)


def test_several_reports_are_one_transaction(services: Services) -> None:
    ada = key(tokens_per_minute=1000)
    service = services(ada)
    books = [service.replica("r1"), service.replica("r2")]
    asks = [book.ask(ada, need(600)) for book in books]

    answers = service.ledger.report_all([book.report(service.clock()) for book in books])
    for book, answer in zip(books, answers, strict=True):
        book.apply(answer, service.clock())

    assert [ask.reservation is not None for ask in asks] == [True, False]


def test_keys_changed_beside_the_ledger_are_seen_within_a_second(services: Services) -> None:
    service = services(key())
    book = service.replica("r1")
    service.store.add(key("bob"))

    service.clock.now_s += 0.5
    service.talk(book)

    assert {record.key.name for record in book.snapshot.records} == {"ada", "bob"}
    assert service.ledger.snapshot(book.snapshot.revision) is None
    assert isinstance(service.ledger, Ledger)
    assert book.reserve(key("bob"), Amounts(1, 10**6, 1), service.clock()) is not None
