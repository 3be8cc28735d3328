"""A ledger and its replicas with a network that loses, repeats and reorders, and an account of what
was spent in truth, kept beside theirs.

A reservation takes effect when the ledger commits the report that holds it: no byte is answered
before; one that was prepaid takes effect at once. Its end does with the report that holds it. What
the limits allow is checked against buckets of the truth, which are drawn at the first moment and
get back at the second what was unused: never less than zero means that in no span of time more was
spent than the limit and its refill.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.core.access.access_key import AccessKey, KeyLimits, KeyRecord, KeySnapshot
from serve_app.core.access.lease import Amounts, LedgerAnswer, ReplicaReport, Usage, UsageLabels
from serve_app.core.access.lease_book import Ask, LeaseBook, Reservation
from serve_app.core.access.ledger_state import LedgerState
from serve_app.core.access.quota import utc_day
from serve_app.core.access.token_bucket import TokenBucket, full_bucket
from serve_app.core.tiers import Tier

# An hour after midnight of a UTC day.
START_S = 20_000 * 86_400.0 + 3600.0
LEASE_TTL_S = 10.0
LIMITS = KeyLimits(
    max_concurrent=16, requests_per_minute=60, tokens_per_minute=1000, tokens_per_day=4000
)
KEY = AccessKey("ada", limits=LIMITS)
KEYS = KeySnapshot(revision=1, records=(KeyRecord("id", b"", KEY),))
SLACK = 1e-6


@dataclass(eq=False)
class Request:
    """`effective`: may be answered. `sequence` is of the first report that holds it, `end_sequence`
    of the one that holds its end; `known` and `end_known`: the ledger has read them."""

    replica: str
    reservation: Reservation
    sequence: int
    effective: bool = False
    known: bool = False
    used: Amounts | None = None
    end_sequence: int | None = None
    end_known: bool = False
    day: str = ""


@dataclass
class Replica:
    book: LeaseBook
    requests: list[Request] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    declared_dead: bool = False

    @property
    def running(self) -> list[Request]:
        return [r for r in self.requests if r.used is None and not r.reservation.void]


class World:
    def __init__(self, *, replicas: int = 3) -> None:
        self.now_s = START_S
        self.ledger = self._new_ledger()
        self.replicas: dict[str, Replica] = {}
        self.reports: list[ReplicaReport] = []
        self.answers: list[tuple[str, LedgerAnswer]] = []
        self.tokens: TokenBucket = full_bucket(1000, START_S)
        self.requests: TokenBucket = full_bucket(60, START_S)
        self.day_spent: dict[str, int] = {}
        self.lost: list[Request] = []  # of dead replicas
        self.served = 0
        self.prepaid = 0  # requests that began without the ledger
        self.given_up_tokens = 0  # spent at a death, used or not
        self.born = 0
        for _ in range(replicas):
            self.start_replica()

    # What happens.

    def start_replica(self) -> None:
        self.born += 1
        name = f"r{self.born}"
        self.replicas[name] = Replica(LeaseBook(name))
        self.exchange(name)

    def kill_replica(self, name: str, *, is_noticed: bool) -> None:
        """Its requests end with it. What the network holds of its reports may still arrive."""
        replica = self.replicas.pop(name)
        self.lost += replica.requests
        if is_noticed:
            self.forget(name)

    def forget(self, name: str) -> None:
        """The ledger is made to believe that it is dead."""
        with self._noting_deaths():
            self.ledger.forget(name, self.now_s)
        self._note_deaths()

    def restart_ledger(self) -> None:
        """Killed; what it had committed is read again."""
        old, self.ledger = self.ledger, self._new_ledger()
        quotas, accounts = pickle.loads(pickle.dumps((old.quotas, old.replicas)))
        self.ledger.load(quotas, accounts)
        self.ledger.set_keys(KEYS, self.now_s)

    def tick(self, seconds: float) -> None:
        self.now_s += seconds

    def reserve(self, name: str, tokens: int) -> bool:
        if self._reserve_at_once(name, tokens):
            return True
        replica = self.replicas[name]
        replica.asks.append(replica.book.ask(KEY, Amounts(1, tokens, 1)))
        return False

    def fall_silent(self, name: str, tokens: int, *, reserves_first: bool) -> None:
        """A replica is cut off with what it has leased, and taken for dead; the others use up what
        it had. Then it is heard again, and tries to use it, if it did not before."""
        while reserves_first and self._reserve_at_once(name, tokens):
            pass
        others = [other for other in self.replicas if other != name]
        for _ in range(4):
            self.tick(4.0)
            for other in others:
                self.exchange(other)
        self.use_up(*others)
        for _ in range(3):
            self.exchange(name)
            self.check()
            while self._reserve_at_once(name, tokens):
                pass

    def use_up(self, *names: str) -> None:
        """What there is in the minute, to the last token."""
        for name in names:
            for tokens in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
                self.reserve(name, tokens)
                self.exchange(name)
            self.give_up(name)

    def begin_without_the_ledger(self, name: str, tokens: int, count: int) -> None:
        """A replica with an idle lease gets requests; nobody is asked."""
        for _ in range(6):
            self.reserve(name, tokens)
        self.exchange(name)
        self.exchange(name)
        self.end_all(name)
        for _ in range(3):
            self.exchange(name)
        for _ in range(count):
            self.begin(name, tokens)

    def begin(self, name: str, tokens: int) -> None:
        self._reserve_at_once(name, tokens)

    def lose(self, name: str) -> None:
        """A report that never arrives."""
        self.replicas[name].book.report(self.now_s)

    def end(self, name: str, index: int, fraction: float) -> None:
        """One request ends, with a part of what it had reserved."""
        replica = self.replicas[name]
        if not replica.running:
            return
        request = replica.running[index % len(replica.running)]
        if not replica.book.acknowledged(request.reservation) and fraction > 0:
            return  # has no byte of an answer yet; it may only be cancelled
        tokens = int(request.reservation.leased.tokens * fraction)
        self._settle(replica, request, Amounts(int(fraction > 0), tokens))

    def end_all(self, name: str) -> None:
        """All requests that were acknowledged end, and leave their concurrency at the replica."""
        replica = self.replicas[name]
        for request in replica.running:
            if replica.book.acknowledged(request.reservation):
                leased = request.reservation.leased
                self._settle(replica, request, Amounts(1, leased.tokens))

    def send(self, name: str) -> None:
        self.reports.append(self.replicas[name].book.report(self.now_s))

    def receive(self, index: int, *, keeps_copy: bool, dies: str) -> None:
        """The ledger reads one of the reports that are under way. `dies`: "" or where it is
        killed: "before" its commit or "after" it, without an answer."""
        if not self.reports:
            return
        place = index % len(self.reports)
        report = self.reports[place] if keeps_copy else self.reports.pop(place)
        before = pickle.dumps((self.ledger.quotas, self.ledger.replicas))
        answer = self._read(report, commits=dies != "before")
        if dies == "before":
            self.ledger = self._new_ledger()
            self.ledger.load(*pickle.loads(before))
            self.ledger.set_keys(KEYS, self.now_s)
            return
        if dies == "after":
            self.restart_ledger()
            return
        self.answers.append((report.replica, answer))

    def deliver(self, index: int, *, keeps_copy: bool) -> None:
        """A replica hears one of the answers that are under way."""
        if not self.answers:
            return
        place = index % len(self.answers)
        name, answer = self.answers[place] if keeps_copy else self.answers.pop(place)
        replica = self.replicas.get(name)
        if replica is None:
            return
        replica.book.apply(answer, self.now_s)
        self._collect(replica)

    def exchange(self, name: str) -> None:
        """A report and its answer, at once."""
        replica = self.replicas[name]
        answer = self._read(replica.book.report(self.now_s), commits=True)
        replica.book.apply(answer, self.now_s)
        self._collect(replica)

    def give_up(self, name: str) -> None:
        replica = self.replicas[name]
        for ask in replica.asks:
            replica.book.give_up(ask)
        replica.asks = []

    def _reserve_at_once(self, name: str, tokens: int) -> bool:
        reservation = self.replicas[name].book.reserve(KEY, Amounts(1, tokens, 1), self.now_s)
        if reservation is not None:
            self._began(self.replicas[name], reservation)
        return reservation is not None

    # What must hold.

    def check(self) -> None:
        assert self.tokens.refilled(self.now_s).level >= -SLACK, "tokens a minute are overspent"
        assert self.requests.refilled(self.now_s).level >= -SLACK, "requests a minute are overspent"
        assert max(self.day_spent.values(), default=0) <= 4000, "tokens a day are overspent"
        running = sum(
            request.effective
            for replica in self.replicas.values()
            if not replica.declared_dead
            for request in replica.running
        )
        assert running <= 16, "concurrency is overspent"

    def check_nothing_is_lost(self) -> None:
        """At the end one replica is left, and may use all that was not spent."""
        for name in list(self.replicas)[1:]:
            self.kill_replica(name, is_noticed=True)
        (name, last), *_ = self.replicas.items()
        self.give_up(name)
        for request in last.running:
            self._settle(last, request, Amounts())
        # Old reports are not read any more, and whatever is silent is declared dead.
        self.reports, self.answers = [], []
        for _ in range(8):
            self.tick(4.0)
            self.exchange(name)
        today = utc_day(self.now_s)
        spent = self.ledger.quotas["ada"].day_tokens - self.ledger.idle("ada").tokens
        if today == utc_day(START_S):
            unknown = [r for r in self.lost if r.effective and not r.known]
            given_up = self.given_up_tokens - sum(r.reservation.leased.tokens for r in unknown)
            assert spent == self.day_spent.get(today, 0) + given_up, "the day has a leak"
        else:
            assert spent >= self.day_spent.get(today, 0), "what was spent is forgotten"
        for _ in range(20):
            self.tick(4.0)
            self.exchange(name)
        most = min(1000, 4000 - spent)
        asks = [(most - 2, 1), (1, 1), (1, 1)] if most > 2 else []
        for tokens, _ in asks:
            if not self.reserve(name, tokens):
                self.exchange(name)
        assert len(last.running) == len(asks), "not all that is left can be used"

    # How.

    def _new_ledger(self) -> LedgerState:
        ledger = LedgerState(lease_ttl_s=LEASE_TTL_S, offline_leases=False)
        ledger.set_keys(KEYS, self.now_s)
        return ledger

    def _read(self, report: ReplicaReport, *, commits: bool) -> LedgerAnswer:
        known = self.ledger.replicas.get(report.replica)
        is_read = (
            known is not None and known.epoch == report.epoch and known.sequence < report.sequence
        )
        with self._noting_deaths(counts=commits):
            answer = self.ledger.report(report, self.now_s)
        # The report itself may have come so late that it finds its replica dead.
        is_read = is_read and answer.epoch == report.epoch
        if commits:
            self._note_deaths()
            if is_read:
                self._take_effect(report)
        return answer

    @contextmanager
    def _noting_deaths(self, *, counts: bool = True) -> Iterator[None]:
        """What the ledger gives up where it takes a replica for dead in this block."""
        before = {
            name: (account.epoch, sum(key.spent_at_death.tokens for key in account.keys.values()))
            for name, account in self.ledger.replicas.items()
        }
        yield
        for name, (epoch, tokens) in before.items():
            account = self.ledger.replicas.get(name)
            if counts and account is not None and account.epoch != epoch:
                self.given_up_tokens += tokens

    def _note_deaths(self) -> None:
        for name, replica in self.replicas.items():
            account = self.ledger.replicas.get(name)
            if account is not None and (not account.alive or account.epoch > 1):
                replica.declared_dead = True

    def _take_effect(self, report: ReplicaReport) -> None:
        replica = self.replicas.get(report.replica)
        requests = self.lost if replica is None else replica.requests
        mine = [r for r in requests if r.replica == report.replica]
        for request in mine:
            is_in_it = request.sequence <= report.sequence and not request.reservation.void
            request.known = request.known or is_in_it
            if is_in_it and not request.effective:
                request.effective, request.day = True, utc_day(self.now_s)
                self._spend(request.reservation.leased, request.day)
        for request in mine:
            if request.end_sequence is None or request.end_sequence > report.sequence:
                continue
            if request.effective and not request.end_known:
                assert request.used is not None
                self._spend(request.used - request.reservation.leased, request.day)
                request.end_known = True

    def _collect(self, replica: Replica) -> None:
        """Reservations that asks were given; one that is void now was never answered."""
        for request in replica.requests:
            if request.reservation.void and request.used is None:
                request.used, request.end_sequence = Amounts(), replica.book._sequence
        for ask in replica.asks:
            if ask.reservation is not None:
                self._began(replica, ask.reservation)
        replica.asks = [ask for ask in replica.asks if ask.pending]

    def _began(self, replica: Replica, reservation: Reservation) -> None:
        sequence = replica.book._sequence
        request = Request(replica.book.replica, reservation, sequence)
        replica.requests.append(request)
        if not reservation.sequence:
            self.prepaid += 1
            request.effective, request.day = True, utc_day(self.now_s)
            self._spend(reservation.leased, request.day)

    def _spend(self, spent: Amounts, day: str) -> None:
        self.tokens = self.tokens.refilled(self.now_s).drawn(spent.tokens)
        self.requests = self.requests.refilled(self.now_s).drawn(spent.requests)
        if day == utc_day(self.now_s):
            self.day_spent[day] = self.day_spent.get(day, 0) + spent.tokens

    def _settle(self, replica: Replica, request: Request, used: Amounts) -> None:
        request.used = used
        request.end_sequence = replica.book._sequence
        replica.book.settle(request.reservation, used)
        self.served += used.requests
        if used.requests:
            labels = UsageLabels("ada", Tier.CHAT, "m", "2024-10-04")
            replica.book.count(labels, Usage(requests=1, answer_tokens=used.tokens))
