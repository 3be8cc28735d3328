"""The queue among flows: whose turn it is, positions, shares of the work, and what is forgotten."""

import math
from collections import Counter, deque
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.access.access_key import Priority
from serve_app.core.admission.fair_queue import MOST_FLOWS, MOST_PASSED, FairQueue, relative_work
from serve_app.core.admission.fairness import BACKGROUND_COST, Flow

FLOWS = (Flow("one"), Flow("double", 2.0), Flow("half", 0.5), Flow("late", 1.0))
SEEDS = st.integers(0, 10**6)


@dataclass(slots=True, eq=False)
class Entry:
    arrival: int
    flow: Flow
    work_s: float = 1.0
    sequences: int = 1
    prompt_tokens: float = 10.0
    charge_ns: int = 0
    mark_ns: int = 0
    latest_start_s: float = math.inf
    place: float = 0.0
    passed: int = 0


def names(queue: FairQueue[Entry]) -> str:
    """In the order in which they start, if no other comes and nothing ends."""
    order: list[str] = []
    while (entry := queue.first()) is not None:
        queue.start(entry)
        order.append(entry.flow.name)
    return " ".join(order)


def filled(*flows: Flow, work_s: float = 1.0) -> FairQueue[Entry]:
    queue = FairQueue[Entry]()
    for arrival, flow in enumerate(flows):
        queue.push(Entry(arrival, flow, work_s))
    return queue


def test_two_flows_take_turns_however_many_of_one_came_first() -> None:
    assert names(filled(*[Flow("a")] * 4, *[Flow("b")] * 2)) == "a b a b a a"


def test_twice_the_weight_is_twice_the_work() -> None:
    order = names(filled(*[Flow("a", 2.0)] * 40, *[Flow("b")] * 40))
    assert Counter(order.split()[:30]) == {"a": 20, "b": 10}


def test_a_flow_with_short_requests_has_more_of_them() -> None:
    queue = FairQueue[Entry]()
    for arrival in range(30):
        queue.push(Entry(arrival, Flow("short"), work_s=1.0))
        queue.push(Entry(100 + arrival, Flow("long"), work_s=4.0))
    assert Counter(names(queue).split()[:25]) == {"short": 20, "long": 5}


def test_background_goes_on_beside_a_flood_and_gets_its_part() -> None:
    background = Flow("background", priority=Priority.BACKGROUND)
    order = names(filled(*[background] * 50, *[Flow("flood")] * 200)).split()
    assert Counter(order[:110])["background"] == pytest.approx(110 / (1 + BACKGROUND_COST), abs=1)


def test_nobody_saves_up_a_claim_while_idle() -> None:
    queue = filled(*[Flow("busy")] * 100)
    queue.push(Entry(1000, Flow("idle")))
    for _ in range(60):
        entry = queue.first()
        assert entry is not None
        queue.start(entry)
    for arrival in range(20):
        queue.push(Entry(2000 + arrival, Flow("idle")))
    assert abs(Counter(names(queue).split()[:20])["idle"] - 10) <= 1


def test_what_a_request_did_not_take_is_given_back_to_its_flow() -> None:
    queue = filled(*[Flow("a"), Flow("b")] * 20, work_s=4.0)
    begun: list[Entry] = []
    for _ in range(4):
        entry = queue.first()
        assert entry is not None
        queue.start(entry)
        begun.append(entry)
    assert [entry.flow.name for entry in begun] == ["a", "b", "a", "b"]
    for entry in begun:
        if entry.flow.name == "a":
            queue.end(entry, took_s=0.0)
    assert names(queue).startswith("a a b")


def test_a_flow_that_takes_more_than_expected_is_expected_to() -> None:
    queue = FairQueue[Entry]()
    for arrival in range(200):
        entry = Entry(arrival, Flow("wordy"))
        queue.push(entry)
        queue.start(entry)
        queue.end(entry, took_s=3.0)
    queue.push(last := Entry(1000, Flow("wordy")))
    assert last.charge_ns == pytest.approx(3e9, rel=0.1)


@given(SEEDS)
def test_with_one_flow_it_is_first_in_first_out(seed: int) -> None:
    rng, queue, model = Random(seed), FairQueue[Entry](), deque[Entry]()
    running: list[Entry] = []
    for arrival in range(60):
        act = rng.random()
        if act < 0.5 or not model:
            entry = Entry(arrival, FLOWS[0], rng.uniform(0, 3))
            queue.push(entry)
            model.append(entry)
        elif act < 0.7:
            entry = model.popleft()
            assert queue.first() is entry
            queue.start(entry)
            running.append(entry)
        elif act < 0.8 and running:
            queue.end(running.pop(), rng.uniform(0, 9))
        else:
            entry = rng.choice(model)
            model.remove(entry)
            queue.remove(entry)
        assert [queue.ahead_of(entry) for entry in model] == list(range(len(model)))
        assert list(queue) == list(model)
        assert queue.prompt_tokens == 10.0 * len(model)


@given(SEEDS)
def test_positions_are_those_in_which_they_start(seed: int) -> None:
    """After any history, for those that wait, and for the next one to come."""
    rng, queue = Random(seed), FairQueue[Entry]()
    waiting = _some_history(rng, queue)
    flow = rng.choice(FLOWS)
    standing = queue.standing(flow)
    queue.push(newest := Entry(10**6, flow, 1.0))
    waiting.append(newest)
    assert queue.ahead_of(newest) == standing.ahead
    assert standing.queued == sum(entry.flow is flow for entry in waiting) - 1
    positions = {id(entry): queue.ahead_of(entry) for entry in waiting}
    tokens = 0.0
    for position in range(len(waiting)):
        entry = queue.first()
        assert entry is not None
        assert positions[id(entry)] == position
        if entry is newest:
            assert tokens == pytest.approx(standing.tokens_ahead)
        tokens += entry.prompt_tokens
        queue.start(entry)
    assert len(queue) == 0


@given(SEEDS)
def test_who_steps_aside_has_the_old_position_again(seed: int) -> None:
    rng, queue = Random(seed), FairQueue[Entry]()
    waiting = _some_history(rng, queue)
    if not waiting:
        return
    before = [queue.ahead_of(entry) for entry in waiting]
    aside = rng.sample(waiting, min(3, len(waiting)))
    for entry in aside:
        queue.remove(entry)
    for entry in aside:
        queue.put_back(entry)
    after = [queue.ahead_of(entry) for entry in waiting]
    if len({entry.flow.name for entry in waiting}) == 1:
        assert after == before
    for entry, old, new in zip(waiting, before, after, strict=True):
        # Flows whose turns were equal may have changed places.
        assert abs(old - new) <= len(FLOWS), entry


@given(SEEDS)
def test_the_work_of_flows_with_something_waiting_differs_by_no_more_than_a_bound(
    seed: int,
) -> None:
    """For two flows that always have something waiting, by weight: the largest request of each slot
    and one more, however long it goes on (VTC's theorem has 2 of its unit U, all that is in the
    engine at once)."""
    rng, queue, slots = Random(seed), FairQueue[Entry](), 4
    flows, longest_s = FLOWS[:3], 5.0
    done: dict[str, float] = dict.fromkeys((flow.name for flow in flows), 0.0)
    running: list[tuple[float, Entry]] = []
    arrival = 0
    for _ in range(400):
        for flow in flows:
            while queue.standing(flow).queued < 2:
                arrival += 1
                queue.push(Entry(arrival, flow, work_s=2.0))
        while len(running) < slots:
            entry = queue.first()
            assert entry is not None
            queue.start(entry)
            took_s = rng.uniform(0, longest_s)
            running.append((took_s, entry))
            done[entry.flow.name] += took_s / entry.flow.weight
        took_s, entry = running.pop(rng.randrange(slots))
        queue.end(entry, took_s)
        # The flow's expectation may be the longest as well.
        bound_s = (slots + 2) * longest_s / min(flow.weight for flow in flows)
        assert max(done.values()) - min(done.values()) <= bound_s


@given(SEEDS)
def test_what_is_counted_balances_after_any_history(seed: int) -> None:
    rng, queue = Random(seed), FairQueue[Entry]()
    for entry in _some_history(rng, queue, end_all=True):
        queue.remove(entry)
    assert (len(queue), queue.prompt_tokens, queue.first()) == (0, 0.0, None)
    standing = queue.standing(FLOWS[0])
    assert (standing.sequences, standing.ahead, standing.share) == (0, 0, 1.0)


def test_flows_are_forgotten_and_those_that_run_or_wait_are_not() -> None:
    queue = FairQueue[Entry]()
    queue.push(runs := Entry(0, Flow("runs")))
    queue.start(runs)
    queue.push(waits := Entry(1, Flow("waits")))
    for number in range(3 * MOST_FLOWS):
        entry = Entry(2 + number, Flow(f"flow {number}"))
        queue.push(entry)
        queue.remove(entry)
        assert queue.known_flows <= MOST_FLOWS
    queue.end(runs, 1.0)
    queue.start(waits)
    queue.end(waits, 1.0)


def test_a_share_is_of_those_that_are_there() -> None:
    queue = filled(Flow("a", 2.0), Flow("b"))
    assert queue.standing(Flow("b")).share == pytest.approx(1 / 3)
    assert queue.standing(Flow("c")).share == pytest.approx(1 / 4)
    assert filled(Flow("a")).standing(Flow("a")).share == 1.0


def test_a_flow_has_the_starts_that_others_leave() -> None:
    queue, seldom, often = FairQueue[Entry](), Flow("seldom"), Flow("often")
    for number in range(400):
        entry = Entry(number, seldom if number % 5 == 0 else often)
        queue.push(entry)
        queue.start(entry)
    assert queue.standing(often).drain_share == pytest.approx(0.8, abs=0.05)
    assert queue.standing(seldom).drain_share == 0.5


def test_only_who_is_below_the_share_goes_before_its_turn() -> None:
    flood, light = Flow("flood"), Flow("light")
    queue = filled(*[flood] * 10)
    for _ in range(8):
        entry = queue.first()
        assert entry is not None
        queue.start(entry)
    assert queue.is_below_share(light, 4, slots=8)
    assert not queue.is_below_share(light, 5, slots=8)
    assert not queue.is_below_share(flood, 1, slots=8)
    assert queue.first_below_share(8, most_sequences=2) is None
    queue.push(entry := Entry(100, light))
    assert queue.first_below_share(8, most_sequences=2) is entry
    assert queue.first_below_share(8, most_sequences=0) is None


def test_the_only_flow_never_goes_above_the_limit() -> None:
    queue = filled(Flow("only"))
    assert queue.first_below_share(8, most_sequences=2) is None
    assert not queue.is_below_share(Flow("only"), 1, slots=8)


def _some_history(rng: Random, queue: FairQueue[Entry], *, end_all: bool = False) -> list[Entry]:
    """Pushes, starts, ends, leaves. Those that wait afterwards."""
    waiting: list[Entry] = []
    running: list[Entry] = []
    for arrival in range(rng.randint(1, 60)):
        act = rng.random()
        if act < 0.6 or not waiting:
            entry = Entry(
                arrival,
                rng.choice(FLOWS),
                rng.choice((0.0, 1.0, 1.0, rng.uniform(0, 4))),
                rng.randint(1, 3),
                float(rng.randint(0, 99)),
            )
            queue.push(entry)
            waiting.append(entry)
        elif act < 0.8:
            entry = queue.first()
            assert entry is not None
            queue.start(entry)
            waiting.remove(entry)
            running.append(entry)
        elif act < 0.9 and running:
            queue.end(running.pop(rng.randrange(len(running))), rng.uniform(0, 6))
        else:
            entry = waiting.pop(rng.randrange(len(waiting)))
            queue.remove(entry)
    if end_all:
        for entry in running:
            queue.end(entry, 1.0)
    return waiting


def test_a_requests_work_grows_with_its_limit_up_to_a_whole_one() -> None:
    works = [relative_work(tokens, 400) for tokens in (0, 1, 48, 400, 2048)]
    assert works == sorted(works)
    assert works[0] > 0
    assert works[-2:] == [1.0, 1.0]


def with_latest_starts(*latest: float) -> FairQueue[Entry]:
    """Of one flow; infinity: no deadline."""
    queue = FairQueue[Entry]()
    for arrival, latest_start_s in enumerate(latest):
        entry = Entry(arrival, Flow("a"), latest_start_s=latest_start_s)
        queue.push(entry, may_pass=latest_start_s < math.inf)
    return queue


def arrivals(queue: FairQueue[Entry]) -> list[int]:
    return [entry.arrival for entry in queue]


def test_inside_a_flow_those_that_have_to_start_earlier_pass_the_others() -> None:
    assert arrivals(with_latest_starts(math.inf, 9.0, 5.0, 7.0)) == [2, 3, 1, 0]


def test_those_without_a_deadline_keep_their_order_and_pass_nobody() -> None:
    assert arrivals(with_latest_starts(5.0, math.inf, math.inf)) == [0, 1, 2]


def test_nobody_is_passed_more_often_than_the_bound_says() -> None:
    queue = with_latest_starts(math.inf, *(100.0 - number for number in range(30)))
    order = arrivals(queue)
    assert order.index(0) == MOST_PASSED
    assert max(entry.passed for entry in queue) <= MOST_PASSED


def test_a_flow_with_deadlines_gets_no_more_than_its_share() -> None:
    queue = FairQueue[Entry]()
    for arrival in range(4):
        queue.push(Entry(arrival, Flow("plain")))
    for arrival in range(4, 8):
        queue.push(Entry(arrival, Flow("urgent"), latest_start_s=1.0), may_pass=True)
    assert names(queue) == "plain urgent plain urgent plain urgent plain urgent"


@given(SEEDS)
def test_positions_are_exact_with_deadlines_too(seed: int) -> None:
    """Whatever comes, leaves, and steps aside: who is said to be next is, and so many are ahead."""
    rng, queue, arrival = Random(seed), FairQueue[Entry](), 0
    for _ in range(60):
        waiting = list(queue)
        if rng.random() < 0.6 or not waiting:
            arrival += 1
            urgent = rng.random() < 0.5
            latest_s = rng.uniform(0, 100) if urgent else math.inf
            flow = rng.choice(FLOWS)
            entry = Entry(arrival, flow, rng.uniform(0.1, 2), latest_start_s=latest_s)
            position, passed = queue.passed_by(flow, latest_s)
            expected = queue.standing(flow, position).ahead
            queue.push(entry, may_pass=urgent)
            if urgent:
                assert queue.ahead_of(entry) == expected
                assert not passed or all(other.passed <= MOST_PASSED for other in passed)
        elif rng.random() < 0.5:
            chosen = rng.choice(waiting)
            own = [entry for entry in queue if entry.flow is chosen.flow]
            queue.remove(chosen)
            queue.put_back(chosen)
            assert [entry for entry in queue if entry.flow is chosen.flow] == own
        else:
            first = queue.first()
            assert first is not None
            queue.start(first)
    order: list[Entry] = []
    waiting = list(queue)
    ahead = {entry.arrival: queue.ahead_of(entry) for entry in waiting}
    while (entry := queue.first()) is not None:
        assert queue.ahead_of(entry) == 0
        queue.start(entry)
        order.append(entry)
    assert [ahead[entry.arrival] for entry in order] == list(range(len(order)))
