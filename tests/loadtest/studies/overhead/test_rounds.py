"""The order of a run, what is thrown away, and what an interruption leaves."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from loadtest.servers.systems import System
from loadtest.studies.overhead import measure as rounds
from loadtest.studies.overhead.measure import Measured, Repetition, Turn, in_order, measure
from loadtest.studies.overhead.plan import ClosedLoop, Level, Plan
from tests.loadtest.builders import repetition

SYSTEMS = [System(name, "http://127.0.0.1:1", f"{name}-run") for name in ("bare", "ours", "third")]


class FakeServers:
    """Notes who was measured when; `foreign_cores` are handed out in order."""

    def __init__(self, foreign_cores: Sequence[float] = ()) -> None:
        self.order: list[tuple[str, str, int]] = []
        self._foreign = list(foreign_cores)

    def repeat(
        self, system: System, systems: Sequence[System], plan: Plan, level: Level, turn: Turn
    ) -> Repetition:
        self.order.append((system.name, level.name, turn.attempt))
        return repetition(foreign_cores=self._foreign.pop(0) if self._foreign else 0.0)


Serving = Callable[..., FakeServers]


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Serving:
    """Puts fake servers in place of real ones."""

    def install(foreign_cores: Sequence[float] = ()) -> FakeServers:
        fake = FakeServers(foreign_cores)
        monkeypatch.setattr(rounds, "repeat", fake.repeat)
        monkeypatch.setattr(rounds, "idle_cores", lambda system, systems: 0.01)
        return fake

    return install


def plan(max_repeats: int = 5) -> Plan:
    return Plan(
        rounds=2,
        levels=(ClosedLoop(1, 4), ClosedLoop(8, 16)),
        open_loop_requests=10,
        output_tokens=64,
        max_foreign_cores=0.2,
        max_repeats=max_repeats,
    )


def test_each_system_has_each_place_as_often_as_the_others() -> None:
    orders = [in_order(SYSTEMS, number) for number in range(2 * len(SYSTEMS))]

    places = Counter((system.name, place) for order in orders for place, system in enumerate(order))
    assert set(places.values()) == {2}
    assert len(places) == len(SYSTEMS) ** 2


def test_every_system_is_measured_once_at_each_level_of_a_round(serving: Serving) -> None:
    servers, measured = serving(), Measured()

    measure(SYSTEMS, plan(), range(2), measured, lambda *_: None)

    first = [(name, level) for name, level, _ in servers.order[:6]]
    assert first == [
        ("bare", "1"), ("ours", "1"), ("third", "1"),
        ("bare", "8"), ("ours", "8"), ("third", "8"),
    ]  # fmt: skip
    assert [name for name, _, _ in servers.order[6:9]] == ["third", "ours", "bare"]
    assert {level: len(done) for level, done in measured.rounds.items()} == {"1": 2, "8": 2}
    assert measured.idle_cores == {"bare": 0.01, "ours": 0.01, "third": 0.01}


def test_a_later_start_goes_on_where_the_one_before_ended(serving: Serving) -> None:
    servers, measured = serving(), Measured()

    measure(SYSTEMS, plan(), range(1), measured, lambda *_: None)
    measure(SYSTEMS, plan(), range(1, 2), measured, lambda *_: None)

    assert [name for name, _, _ in servers.order[:3]] == ["bare", "ours", "third"]
    assert [name for name, _, _ in servers.order[6:9]] == ["third", "ours", "bare"]
    assert {level: len(done) for level, done in measured.rounds.items()} == {"1": 2, "8": 2}


def test_a_repetition_that_others_disturbed_is_made_again_at_once(serving: Serving) -> None:
    servers, measured = serving(foreign_cores=[0.0, 0.9]), Measured()

    measure(SYSTEMS, plan(), range(2), measured, lambda *_: None)

    assert measured.disturbed == 1
    assert servers.order[:4] == [
        ("bare", "1", 0), ("ours", "1", 0), ("ours", "1", 1), ("third", "1", 0),
    ]  # fmt: skip
    kept = [each.foreign_cores for each in measured.repetitions("1", "ours")]
    assert kept == [0.0, 0.0]


def test_a_machine_that_is_never_quiet_is_measured_all_the_same(serving: Serving) -> None:
    serving(foreign_cores=[1.0] * 100)
    measured = Measured()

    measure(SYSTEMS, plan(max_repeats=3), range(2), measured, lambda *_: None)

    assert measured.disturbed == 3
    assert [len(measured.rounds[level]) for level in ("1", "8")] == [2, 2]


def test_an_interrupted_run_leaves_its_whole_rounds(serving: Serving) -> None:
    serving()
    measured, seen = Measured(), 0

    def interrupt(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(SYSTEMS, plan(), range(2), measured, interrupt)

    assert {level: len(done) for level, done in measured.rounds.items()} == {"1": 1}
