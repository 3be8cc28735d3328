"""The ledger over a real database: what it grants, what comes back, what survives."""

from pathlib import Path

from tests.access.builders import Service, key, need, used


def test_a_request_is_granted_what_it_asks_for_and_the_ledger_knows_it(tmp_path: Path) -> None:
    ada = key(tokens_per_minute=1000)
    service = Service(tmp_path / "keys", ada)
    book = service.replica("r1")

    reservation = service.request(book, ada, 600)

    assert reservation is not None
    assert not book.acknowledged(reservation)
    service.talk(book)
    assert book.acknowledged(reservation)


def test_a_burst_over_two_replicas_gets_exactly_what_fits(tmp_path: Path) -> None:
    ada = key(tokens_per_minute=10_000)
    service = Service(tmp_path / "keys", ada)
    books = [service.replica("r1"), service.replica("r2")]

    asks = [books[i % 2].ask(ada, need(700)) for i in range(64)]
    for _ in range(4):
        service.talk(*books)

    assert sum(ask.reservation is not None for ask in asks) == 14
    refused = [ask.refusal for ask in asks if ask.refusal]
    assert len(refused) == 50
    assert all(refusal.limit == "tokens_per_minute" for refusal in refused)


def test_what_was_not_used_can_be_used_by_the_next(tmp_path: Path) -> None:
    ada = key(tokens_per_minute=1000)
    service = Service(tmp_path / "keys", ada)
    first, second = service.replica("r1"), service.replica("r2")
    reservation = service.request(first, ada, 1000)
    assert reservation is not None
    assert service.request(second, ada, 100) is None

    first.settle(reservation, used(300))
    service.talk(first)

    assert service.request(second, ada, 701) is None
    assert service.request(second, ada, 700) is not None
