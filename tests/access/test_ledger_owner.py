"""Two services with one database of keys: the second is refused while the first lives, and has it
within seconds once that one has ended."""

from collections.abc import Callable

import pytest

from serve_app.access.ledger import Ledger
from serve_app.access.ledger_owner import (
    DEAD_AFTER_S,
    LedgerSupersededError,
    LedgerTakenError,
    take_over,
)
from serve_app.core.access.lease_book import LeaseBook
from tests.access.builders import Service, key, need

Services = Callable[..., Service]
FIRST, SECOND = "aaaa on one, since morning", "bbbb on two, since noon"


class Sleep:
    """Seconds that pass; the owner may do something in each."""

    def __init__(self, during: Callable[[], object] = lambda: None) -> None:
        self.slept_s = 0.0
        self.during = during

    def __call__(self, seconds: float) -> None:
        self.slept_s += seconds
        self.during()


def first_of(service: Service) -> Ledger:
    """A service that has the database, with no owner before it."""
    take_over(service.database, "nobody", "", sleep=Sleep())
    with service.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE tierserve_service SET ledger = ''")
    return Ledger(service.database, service.clock, service_name=FIRST)


def test_the_second_service_is_refused_while_the_first_lives(services: Services) -> None:
    service = services(key())
    ledger = first_of(service)

    def live() -> None:
        service.clock.now_s += 0.5
        ledger.keep()

    sleep = Sleep(live)
    with pytest.raises(LedgerTakenError, match=f"{FIRST}. Stop that one"):
        take_over(service.database, "second", SECOND, sleep=sleep)
    assert sleep.slept_s < DEAD_AFTER_S
    service.ledger = ledger
    assert service.request(service.replica("r1"), key(), 1) is not None


def test_the_second_service_has_it_once_the_first_is_dead(services: Services) -> None:
    ada = key(tokens_per_day=1000)
    service = services(ada)
    service.ledger = old = first_of(service)
    assert service.request(service.replica("r1"), ada, 600) is not None
    service.talk(book := LeaseBook("r2"))

    sleep = Sleep()
    take_over(service.database, "second", SECOND, sleep=sleep)

    assert sleep.slept_s == DEAD_AFTER_S
    with pytest.raises(LedgerSupersededError, match=SECOND):
        old.report(book.report(service.clock()))
    # What the first one has granted is known to whoever follows it.
    service.ledger = Ledger(service.database, service.clock, service_name=SECOND)
    service.talk(book)
    asks = [book.ask(ada, need(401)), book.ask(ada, need(200))]
    service.talk(book)
    assert [ask.reservation is not None for ask in asks] == [False, True]


def test_a_ledger_that_is_started_again_by_its_own_service_does_not_wait(
    services: Services,
) -> None:
    service = services(key())
    first_of(service).keep()
    sleep = Sleep()
    take_over(service.database, "again", FIRST, sleep=sleep)
    assert sleep.slept_s == 0
