"""A store, a ledger and replicas, with a clock that a test sets."""

from dataclasses import dataclass, replace
from pathlib import Path

from serve_app.access.credentials import Pepper
from serve_app.access.database import Database, open_database
from serve_app.access.key_store import KeyStore
from serve_app.access.ledger import Ledger
from serve_app.core.access.access_key import AccessKey, KeyLimits
from serve_app.core.access.lease import Amounts
from serve_app.core.access.lease_book import LeaseBook, Reservation

PEPPER = Pepper("p" * 44)
# Noon of a UTC day.
NOON_S = 20_000 * 86_400.0 + 43_200.0


@dataclass
class Clock:
    now_s: float = NOON_S

    def __call__(self) -> float:
        return self.now_s


def key(name: str = "ada", **limits: int) -> AccessKey:
    return AccessKey(name, limits=KeyLimits(**limits))


def need(tokens: int) -> Amounts:
    return Amounts(requests=1, tokens=tokens, concurrent=1)


def used(tokens: int) -> Amounts:
    return Amounts(requests=1, tokens=tokens)


class Service:
    """A database with its ledger; `restart` is a ledger that was killed and started again."""

    def __init__(self, url: str | Path, *keys: AccessKey, offline_leases: bool = False) -> None:
        self.clock = Clock()
        self.offline_leases = offline_leases
        self.database: Database = open_database(str(url), create=True)
        self.store = KeyStore(self.database, PEPPER, self.clock)
        for each in keys:
            self.store.add(each)
        self.ledger = self._started()

    def restart(self) -> None:
        self.ledger = self._started()

    def replica(self, name: str) -> LeaseBook:
        """One that knows the keys."""
        book = LeaseBook(name)
        self.talk(book)
        return book

    def talk(self, *books: LeaseBook) -> None:
        """Each reports and hears the answer."""
        for book in books:
            book.apply(self.ledger.report(book.report(self.clock())), self.clock())

    def request(self, book: LeaseBook, of: AccessKey, tokens: int) -> Reservation | None:
        """A reservation, asked for where the lease does not cover it."""
        known = next((r.key for r in book.snapshot.records if r.key.name == of.name), of)
        if reservation := book.reserve(known, need(tokens), self.clock()):
            return reservation
        ask = book.ask(known, need(tokens))
        self.talk(book)
        if ask.pending:
            book.give_up(ask)
        return ask.reservation

    def limits(self, of: AccessKey, **limits: int) -> None:
        self.store.change(replace(of, limits=KeyLimits(**limits)))

    def _started(self) -> Ledger:
        return Ledger(self.database, self.clock, offline_leases=self.offline_leases)
