"""Streams that go on at another replica, and what their key pays: hypothesis loses replicas that
have died and replicas that are only out of reach, lets them settle late, and delays what is said to
the ledger; all that clients get is never more than the key may use.

A day's tokens refill in no time that passes here, so that all that was ever made counts.
"""

import pickle
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.core.access.access_key import AccessKey, KeyLimits, KeyRecord, KeySnapshot
from serve_app.core.access.lease import NOTHING, Amounts, Claim, LedgerAnswer
from serve_app.core.access.lease_book import LeaseBook, Reservation
from serve_app.core.access.ledger_state import LedgerState

LIMIT = 600
KEY = AccessKey("ada", limits=KeyLimits(tokens_per_day=LIMIT))
KEYS = KeySnapshot(1, (KeyRecord("id", b"", KEY),))
START_S = 20_000 * 86_400.0 + 3600.0
INDEX = st.integers(0, 7)


@dataclass(eq=False)
class Part:
    """What one replica does of a stream. `reservation` None: it goes on for nothing. `made` are the
    tokens made here, `seen` those of them that the client has."""

    replica: str
    stream: "Stream"
    reservation: Reservation | None
    claim: Claim | None = None
    made: int = 0
    seen: int = 0
    left: bool = False
    settled: bool = False


@dataclass(eq=False)
class Stream:
    request_id: str
    tokens: int
    parts: list[Part] = field(default_factory=list)

    @property
    def rest(self) -> int:
        """What the client may still get."""
        return self.tokens - sum(part.seen for part in self.parts)


class MovedStreams(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S
        self.ledger = self._new_ledger()
        self.books: dict[str, LeaseBook] = {}
        self.streams: list[Stream] = []
        self.dead: set[str] = set()
        self.unread: list[tuple[str, LedgerAnswer]] = []
        self.given_up = 0  # what lay idle, or was prepaid, at replicas that were taken for dead
        for _ in range(3):
            self._start()

    # --- streams

    @initialize(sizes=st.lists(st.sampled_from((10, 60, 150)), max_size=4), same_id=st.booleans())
    def begin_some(self, sizes: list[int], same_id: bool) -> None:
        for tokens in sizes:
            self.begin(0, tokens, same_id)

    @rule(index=INDEX, to=INDEX, settles=st.booleans(), comes_back=st.booleans())
    def lose_one_that_is_taken_for_dead(
        self, index: int, to: int, settles: bool, comes_back: bool
    ) -> None:
        """Out of reach for the gateway and for Ray, it lives."""
        for part in self._some(index, left=False):
            self._forget(part.replica)
            if comes_back:
                self._exchange(part.replica)
            self.lose_and_go_on(index, to, not settles)

    @rule(index=INDEX, to=INDEX)
    def lose_one_while_nothing_is_left(self, index: int, to: int) -> None:
        self.use_up(to)
        self.lose_and_go_on(index, to, late=True)

    @rule(index=INDEX, tokens=st.sampled_from((10, 60, 150)), same_id=st.booleans())
    def begin(self, index: int, tokens: int, same_id: bool) -> None:
        name = self._name(index)
        request_id = "chosen" if same_id else f"r{len(self.streams)}"
        reservation = self._reserved(name, tokens, request_id)
        if reservation is not None:
            stream = Stream(request_id, tokens)
            stream.parts.append(Part(name, stream, reservation))
            self.streams.append(stream)

    @rule(index=INDEX, tokens=st.integers(1, 60), unseen=st.integers(0, 3))
    def make(self, index: int, tokens: int, unseen: int) -> None:
        for part in self._some(index, left=False):
            if not self._may_answer(part):
                return
            part.seen += min(tokens, part.stream.rest)
            part.made = part.seen + min(unseen, part.stream.rest)

    @rule(index=INDEX)
    def end(self, index: int) -> None:
        for part in self._some(index, left=False):
            part.left = True
            self._settle(part)

    @rule(index=INDEX, to=INDEX, late=st.booleans())
    def lose_and_go_on(self, index: int, to: int, late: bool) -> None:
        """The gateway has lost the replica, which may live: then it notices, sooner or later."""
        for part in self._some(index, left=False):
            part.left = True
            if not late and part.replica not in self.dead:
                self._settle(part)
            self._go_on(part.stream, self._name(to))

    @rule(index=INDEX)
    def notice_late(self, index: int) -> None:
        for part in self._some(index, left=True):
            if part.replica not in self.dead:
                self._settle(part)

    # --- replicas and ledger

    @precondition(lambda self: len(self.books) - len(self.dead) > 1)
    @rule(index=INDEX, to=INDEX, noticed=st.booleans())
    def die(self, index: int, to: int, noticed: bool) -> None:
        name = self._name(index)
        self.dead.add(name)
        self._start()
        if noticed:
            self._forget(name)
        for part in self._parts():
            if part.replica == name and not part.left:
                part.left = True
                self._go_on(part.stream, self._name(to))

    @rule()
    def notice_deaths(self) -> None:
        for name in self.dead:
            self._forget(name)

    @rule(index=INDEX)
    def take_a_living_one_for_dead(self, index: int) -> None:
        self._forget(self._name(index))

    @rule(index=INDEX)
    def exchange(self, index: int) -> None:
        self._exchange(self._name(index))

    @rule()
    def exchange_all(self) -> None:
        for name in self._living():
            self._exchange(name)

    @rule(index=INDEX)
    def lose_a_report(self, index: int) -> None:
        self.books[self._name(index)].report(self.now_s)

    @rule(index=INDEX)
    def answer_late(self, index: int) -> None:
        name = self._name(index)
        self.unread.append(
            (name, self.ledger.report(self.books[name].report(self.now_s), self.now_s))
        )

    @rule()
    def late_answers_come(self) -> None:
        for name, answer in self.unread:
            self.books[name].apply(answer, self.now_s)
        self.unread.clear()

    @rule(seconds=st.sampled_from((0.1, 1.0, 3.0)))
    def tick(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def restart_the_ledger(self) -> None:
        """What is in its database is read again; which streams it has seen die is not."""
        quotas, replicas = pickle.loads(pickle.dumps((self.ledger.quotas, self.ledger.replicas)))
        for replica in replicas.values():
            for account in replica.keys.values():
                account.followed = {}
        self.ledger = self._new_ledger()
        self.ledger.load(quotas, replicas)
        self.ledger.set_keys(KEYS, self.now_s)

    @rule(index=INDEX)
    def use_up(self, index: int) -> None:
        """Whoever comes takes all that there is."""
        name = self._name(index)
        for tokens in (256, 64, 16, 4, 1):
            while (reservation := self._reserved(name, tokens, "")) is not None:
                stream = Stream("", tokens)
                part = Part(name, stream, reservation, made=tokens, seen=tokens, left=True)
                stream.parts.append(part)
                self.streams.append(stream)
                self._settle(part)

    @property
    def made(self) -> int:
        """Of a replica that has died counts what clients have: what its engine made beyond is
        nobody's."""
        return sum(
            part.seen if part.replica in self.dead and not part.settled else part.made
            for part in self._parts()
        )

    @property
    def spent(self) -> int:
        """As the ledger has it."""
        return self.ledger.quotas[KEY.name].day_tokens - self.ledger.idle(KEY.name).tokens

    @invariant()
    def no_more_is_made_than_allowed(self) -> None:
        assert self.made <= LIMIT, f"{self.made} tokens of {LIMIT}"

    def teardown(self) -> None:
        """All streams run to their ends, whoever lives says so, and the rest is used up."""
        for part in self._parts():
            if part.left or part.settled:
                continue
            if self._may_answer(part):
                part.seen += part.stream.rest
                part.made = max(part.made, part.seen)
        for part in self._parts():
            if part.replica not in self.dead:
                self._settle(part)
        for _ in range(2):
            self.exchange_all()
        self.no_more_is_made_than_allowed()
        paid = self.spent - self.given_up
        assert self.made <= paid, f"{self.made} tokens are paid with {paid}"

    # --- how

    def _go_on(self, stream: Stream, name: str) -> None:
        """As `LeaseHolder.take_over`: the rest is reserved, or known to be paid for."""
        rest, book = stream.rest, self.books[name]
        if not rest:
            return
        claim = book.claim(KEY.name, stream.request_id, rest)
        reservation = self._reserved(name, rest, stream.request_id)
        if reservation is None:
            self._exchange(name)
            if not book.is_covered(claim):
                book.drop_claim(claim)
                return
        stream.parts.append(Part(name, stream, reservation, claim))

    def _reserved(self, name: str, tokens: int, request_id: str) -> Reservation | None:
        book, need = self.books[name], Amounts(tokens=tokens)
        reservation = book.reserve(KEY, need, self.now_s, request_id)
        if reservation is None:
            ask = book.ask(KEY, need, request_id)
            for _ in range(3):
                self._exchange(name)
            reservation = ask.reservation
            if reservation is None:
                book.give_up(ask)
        # What is prepaid and not known yet is paid for by what a death gives up.
        self._exchange(name)
        if reservation is not None and reservation.void:
            return None
        return reservation

    def _may_answer(self, part: Part) -> bool:
        book, reservation = self.books[part.replica], part.reservation
        return reservation is None or book.acknowledged(reservation)

    def _settle(self, part: Part) -> None:
        if part.settled:
            return
        part.settled = True
        book, reservation = self.books[part.replica], part.reservation
        if reservation is not None:
            covered = part.claim is not None and book.is_covered(part.claim)
            book.settle(reservation, NOTHING if covered else Amounts(tokens=part.made))
        if part.claim is not None:
            book.drop_claim(part.claim)

    def _exchange(self, name: str) -> None:
        book = self.books[name]
        book.apply(self.ledger.report(book.report(self.now_s), self.now_s), self.now_s)

    def _forget(self, name: str) -> None:
        before = self.spent
        self.ledger.forget(name, self.now_s)
        self.given_up += self.spent - before

    def _start(self) -> None:
        name = f"replica {len(self.books)}"
        self.books[name] = LeaseBook(name)
        self._exchange(name)

    def _living(self) -> list[str]:
        return [name for name in self.books if name not in self.dead]

    def _name(self, index: int) -> str:
        living = self._living()
        return living[index % len(living)]

    def _parts(self) -> list[Part]:
        return [part for stream in self.streams for part in stream.parts]

    def _some(self, index: int, *, left: bool) -> list[Part]:
        """One that is not settled, if there is any, on a living replica or left by its client."""
        some = [part for part in self._parts() if part.left is left and not part.settled]
        return some[index % len(some) :][:1] if some else []

    def _new_ledger(self) -> LedgerState:
        ledger = LedgerState(lease_ttl_s=10.0, offline_leases=True)
        ledger.set_keys(KEYS, self.now_s)
        return ledger


TestMovedStreams = MovedStreams.TestCase
TestMovedStreams.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


# --- one by one


def a_stream(scene: MovedStreams, tokens: int, *, seen: int, replica: int = 0) -> Part:
    """It runs, and its client has so much of it."""
    before = len(scene.streams)
    scene.begin(replica, tokens, True)
    assert len(scene.streams) == before + 1
    (part,) = scene.streams[-1].parts
    part.seen = part.made = seen
    return part


def goes_on(scene: MovedStreams, part: Part, replica: int = 1) -> Part:
    """Another replica has it now."""
    part.left = True
    scene._go_on(part.stream, scene._name(replica))
    moved = part.stream.parts[-1]
    assert moved is not part
    return moved


def is_covered(scene: MovedStreams, part: Part) -> bool:
    scene._exchange(part.replica)
    assert part.claim is not None
    return scene.books[part.replica].is_covered(part.claim)


def test_what_a_dead_replica_had_reserved_pays_for_the_rest_even_where_nothing_is_left() -> None:
    scene = MovedStreams()
    lost = a_stream(scene, 150, seen=30)
    for _ in range(4):
        scene.exchange_all()
        scene.use_up(1)
    scene.dead.add(lost.replica)
    lost.left = True
    scene._go_on(lost.stream, scene._name(0))
    assert lost.stream.parts == [lost], "nobody has seen it die, and nothing is left"
    scene._forget(lost.replica)
    moved = goes_on(scene, lost, replica=0)
    assert moved.reservation is None
    scene.teardown()


def test_a_replica_that_is_only_out_of_reach_gives_back_what_the_other_one_pays() -> None:
    scene = MovedStreams()
    lost = a_stream(scene, 150, seen=30)
    moved = goes_on(scene, lost)
    assert moved.reservation is not None
    assert not is_covered(scene, moved)
    before = scene.spent
    scene.notice_late(0)
    scene.exchange_all()
    assert scene.spent == before - 120
    scene.teardown()


def test_one_that_has_settled_before_it_died_covers_nothing() -> None:
    scene = MovedStreams()
    lost, other = a_stream(scene, 150, seen=30), a_stream(scene, 10, seen=1)
    moved = goes_on(scene, lost)
    scene._settle(lost)
    scene._exchange(lost.replica)
    scene.dead.add(lost.replica)
    scene._forget(lost.replica)
    # Another one with the same id died with it, which had reserved less than this one needs.
    assert not is_covered(scene, moved)
    assert is_covered(scene, goes_on(scene, other))
    scene.teardown()


def test_each_reservation_of_a_dead_replica_pays_for_one_stream() -> None:
    scene = MovedStreams()
    first, second = a_stream(scene, 150, seen=30), a_stream(scene, 150, seen=30)
    moved = goes_on(scene, first)
    scene._settle(first)
    scene._exchange(first.replica)
    scene.dead.add(first.replica)
    scene._forget(first.replica)
    assert is_covered(scene, moved)
    assert not is_covered(scene, goes_on(scene, second))
    scene.teardown()


def test_a_replica_that_was_taken_for_dead_and_lives_pays_what_it_gives_back() -> None:
    scene = MovedStreams()
    lost = a_stream(scene, 150, seen=30)
    scene._forget(lost.replica)
    moved = goes_on(scene, lost)
    assert is_covered(scene, moved)
    scene.teardown()
    assert scene.spent - scene.given_up >= 150


def test_one_that_comes_back_before_it_is_asked_for_covers_nothing() -> None:
    scene = MovedStreams()
    lost = a_stream(scene, 150, seen=30)
    scene._forget(lost.replica)
    scene._settle(lost)
    for _ in range(2):
        scene._exchange(lost.replica)
    scene.dead.add(lost.replica)
    scene._forget(lost.replica)
    assert not is_covered(scene, goes_on(scene, lost))
    scene.teardown()
