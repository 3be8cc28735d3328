"""`kill -9` of the ledger's process at any moment of its work, in SQLite and in PostgreSQL: what
was acknowledged is spent, and never is more spent than the limit."""

import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import cast

import pytest

from serve_app.access.database import open_database
from serve_app.access.key_store import KeyStore
from serve_app.access.ledger import Ledger
from serve_app.core.access.lease import LedgerAnswer
from serve_app.core.access.lease_book import Ask, LeaseBook
from tests.access.builders import PEPPER, key, need, used

BUDGET, TOKENS, KILLS = 30_000, 130, 6
ADA = key("ada", tokens_per_day=BUDGET)


class LedgerProcess:
    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "tests.access.ledger_process", url]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
        )

    def talk(self, book: LeaseBook) -> bool:
        """False where the ledger has died before it answered."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        report = pickle.dumps(book.report(time.time()))
        try:
            self.process.stdin.write(struct.pack("!I", len(report)) + report)
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        head = self.process.stdout.read(4)
        if len(head) < 4:
            return False
        body = self.process.stdout.read(struct.unpack("!I", head)[0])
        try:
            answer = cast(LedgerAnswer, pickle.loads(body))
        except (EOFError, pickle.UnpicklingError):
            return False
        book.apply(answer, time.time())
        return True

    def kill_in(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self.kill)
        timer.start()
        return timer

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        self.process.communicate()


class Clients:
    """Ask two replicas, and end what is acknowledged."""

    def __init__(self, *books: LeaseBook) -> None:
        self.books = books
        self.rng = random.Random(5)
        self.asks: list[tuple[LeaseBook, Ask]] = []
        self.spent = 0

    def ask(self, book: LeaseBook) -> None:
        self.asks.append((book, book.ask(ADA, need(TOKENS))))

    def end_some(self, fraction: float) -> None:
        going_on: list[tuple[LeaseBook, Ask]] = []
        for book, ask in self.asks:
            if ask.refusal is not None:
                continue
            reservation = ask.reservation
            if (
                reservation is None
                or not book.acknowledged(reservation)
                or self.rng.random() >= fraction
            ):
                going_on.append((book, ask))
                continue
            tokens = self.rng.choice((TOKENS, TOKENS // 2))
            book.settle(reservation, used(tokens))
            self.spent += tokens
        self.asks = going_on


@pytest.mark.timeout(180)
def test_no_kill_forgets_or_overspends(database_url: str) -> None:
    database = open_database(database_url, create=True)
    KeyStore(database, PEPPER).add(ADA)
    clients = Clients(LeaseBook("r1"), LeaseBook("r2"))
    for _ in range(KILLS):
        process = LedgerProcess(database_url)
        # The first exchange waits until it has started; the kill falls into its work.
        assert process.talk(clients.books[0])
        timer = process.kill_in(clients.rng.uniform(0.0, 0.15))
        book = clients.books[0]
        while process.talk(book):
            book = clients.rng.choice(clients.books)
            clients.ask(book)
            clients.end_some(0.5)
        timer.join()
        process.close()
    assert 0 < clients.spent < BUDGET

    # At last one that lives: everything can be used up, to the last token that fits.
    ledger = Ledger(database)
    refused = 0
    while refused < 4:
        before = clients.spent
        for book in clients.books:
            for _ in range(8):
                clients.ask(book)
            for _ in range(2):
                book.apply(ledger.report(book.report(time.time())), time.time())
        clients.end_some(1.0)
        refused = refused + 1 if clients.spent == before else 0
    database.close()
    assert 0 <= BUDGET - clients.spent < TOKENS
