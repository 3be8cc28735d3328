"""Requests that begin without the ledger: whatever becomes of their replica and of its reports,
what others may still use up together with them is what the limits allow."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.access.lease import Amounts
from serve_app.core.access.lease_book import FRESH_S
from tests.core.access.ledger_world import KEY, World


@dataclass(frozen=True)
class Round:
    """Requests come to a replica, of so many times the tokens of those before; after every
    `heard_every` of them a report is made, which arrives or not, and its answer."""

    times: float
    count: int
    heard_every: int
    arrives: bool
    is_answered: bool
    pause_s: float


ROUNDS = st.builds(
    Round,
    times=st.sampled_from((1.0, 1.0, 1.0, 0.4, 2.0)),
    count=st.integers(0, 10),
    heard_every=st.integers(1, 5),
    arrives=st.booleans(),
    is_answered=st.booleans(),
    pause_s=st.sampled_from((0.0, 0.3, 2.0)),
)


def play(world: World, name: str, warm: int, round_: Round) -> None:
    for number in range(round_.count):
        world.begin(name, round(warm * round_.times))
        if number % round_.heard_every:
            continue
        world.send(name)
        if not round_.arrives:
            world.reports.clear()
        world.receive(0, keeps_copy=False, dies="" if round_.is_answered else "after")
        world.deliver(0, keeps_copy=False)
    world.tick(round_.pause_s)


@settings(max_examples=200)
@given(
    warm=st.sampled_from((3, 5, 20, 60)),
    rounds=st.lists(ROUNDS, min_size=1, max_size=3),
    end=st.sampled_from(("killed", "silent", "forgotten while it lives", "midnight")),
)
def test_no_end_of_a_replica_overspends(warm: int, rounds: list[Round], end: str) -> None:
    world = World(replicas=2)
    world.begin_without_the_ledger("r1", warm, 0)
    if end == "midnight":
        world.tick(86_400.0 - world.now_s % 86_400.0 - 0.2)
        world.exchange("r1")
    for round_ in rounds:
        play(world, "r1", warm, round_)
    if end == "killed":
        world.kill_replica("r1", is_noticed=True)
    elif end == "silent":
        for _ in range(4):
            world.tick(4.0)
            world.exchange("r2")
    elif end == "forgotten while it lives":
        world.tick(2.0)
        world.forget("r1")
    world.use_up("r2")
    world.check()
    if end != "killed":
        for _ in range(12):
            world.begin("r1", warm)
        world.check()
        for _ in range(3):
            world.exchange("r1")
            world.use_up("r2")
            world.check()
    world.check_nothing_is_lost()


def test_a_replica_that_hears_no_answer_stops_to_begin_without_one() -> None:
    world = World(replicas=1)
    world.begin_without_the_ledger("r1", 5, 1)
    assert world.prepaid == 1
    world.tick(FRESH_S + 0.1)
    world.begin("r1", 5)
    assert world.prepaid == 1
    world.exchange("r1")
    world.begin("r1", 5)
    assert world.prepaid == 2


def test_a_few_requests_begin_without_the_ledger_and_the_next_one_waits_for_it() -> None:
    world = World(replicas=1)
    world.begin_without_the_ledger("r1", 5, 6)
    book = world.replicas["r1"].book
    known = [book.acknowledged(request.reservation) for request in world.replicas["r1"].running]
    assert known == [True] * 4 + [False] * 2


def test_a_small_quota_is_prepaid_nowhere_and_can_be_used_to_its_last_token() -> None:
    """Little is left over three replicas: nothing lies idle, and each may have the last of it."""
    world = World(replicas=3)
    for name in ("r1", "r2", "r3"):
        world.begin_without_the_ledger(name, 20, 0)
        world.end_all(name)
    for name in ("r1", "r2", "r3"):
        world.use_up(name)
        world.exchange(name)
        world.end_all(name)
        world.exchange(name)
    book = world.replicas["r2"].book
    assert book.reserve(KEY, Amounts(1, 1, 1), world.now_s) is None
    assert world.tokens.refilled(world.now_s).level == 0
