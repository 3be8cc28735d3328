"""Run now, wait, or be refused: one request at a gate, by its load and drain."""

import heapq
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.admission.admission import Verdict, keeps_promises
from serve_app.core.admission.fairness import Standing
from serve_app.core.admission.prefill import PrefillAhead
from serve_app.core.admission.queue_drain import Drain
from serve_app.core.admission.retry_reservations import DueBy
from tests.builders import a_drain, an_admission

SEVERITY = {Verdict.RUN: 0, Verdict.QUEUE: 1, Verdict.REFUSE: 2}
FEW = st.integers(0, 12)


def test_a_free_slot_is_taken_at_once() -> None:
    admission = an_admission(slots=2, running=1)
    assert (admission.verdict, admission.wait_s, admission.ahead) == (Verdict.RUN, 0.0, 0)


def test_a_free_slot_does_not_let_anyone_overtake_the_line() -> None:
    assert an_admission(slots=2, running=1, queued=1).verdict is Verdict.QUEUE


def test_a_request_of_several_sequences_waits_until_all_of_them_fit() -> None:
    assert an_admission(slots=4, running=2, sequences=2).verdict is Verdict.RUN
    assert an_admission(slots=4, running=2, sequences=3).verdict is Verdict.QUEUE


def test_the_line_says_how_many_are_ahead_and_how_long_it_takes() -> None:
    drain = a_drain(remaining_s=(1.0,), service_s=4.0)
    admission = an_admission(queued=2, drain=drain)
    assert (admission.verdict, admission.ahead, admission.wait_s) == (Verdict.QUEUE, 2, 9.0)


def test_a_full_line_refuses_and_says_when_it_is_half_empty() -> None:
    # The four that wait start after 1, 5, 9 and 13 s: two of them wait no more after 5 s, and the
    # spare capacity makes it a little longer.
    drain = a_drain(remaining_s=(1.0,), service_s=4.0)
    admission = an_admission(queued=4, max_queued_requests=4, drain=drain)
    assert (admission.verdict, admission.reason) == (Verdict.REFUSE, "queue_full")
    assert admission.ahead == 4
    assert 9 <= admission.retry_after_s <= 14
    assert an_admission(queued=4, reserved=2, drain=drain).retry_after_s > admission.retry_after_s


def test_a_line_that_cannot_start_in_time_refuses_before_it_is_full() -> None:
    drain = a_drain(remaining_s=(1.0,), service_s=4.0)
    admission = an_admission(queued=3, max_queued_requests=100, max_wait_s=10.0, drain=drain)
    assert (admission.verdict, admission.reason) == (Verdict.REFUSE, "wait_too_long")
    assert an_admission(queued=2, max_wait_s=10.0, drain=drain).verdict is Verdict.QUEUE


PROMPTS = PrefillAhead(engine_s=0.5, queued_s=4.0, own_s=1.0, mean_s=0.5, open=False)


def test_a_free_slot_is_not_enough_while_the_engine_has_prompts_to_read() -> None:
    prefill, free = replace(PROMPTS, queued_s=0.0), a_drain(remaining_s=(0.0,) * 8)
    admission = an_admission(slots=8, running=2, prefill=prefill, drain=free)
    assert (admission.verdict, admission.reason) == (Verdict.QUEUE, "prompts are ahead")
    assert admission.wait_s == pytest.approx(1.5)


def test_prompts_that_cannot_be_read_in_time_refuse_whatever_slots_are_free() -> None:
    load: dict[str, Any] = {"slots": 8, "running": 2, "queued": 3, "max_queued_requests": 100}
    assert an_admission(**load, prefill=PROMPTS, max_wait_s=5.5).verdict is Verdict.QUEUE
    late = an_admission(**load, prefill=PROMPTS, max_wait_s=5.4)
    assert (late.verdict, late.reason) == (Verdict.REFUSE, "wait_too_long")
    assert an_admission(**load, prefill=PROMPTS, max_wait_s=5.4, returning=True).verdict is (
        Verdict.QUEUE
    )


def test_the_longer_of_slots_and_prompts_is_what_a_request_waits_for() -> None:
    slow = a_drain(remaining_s=(20.0,))
    assert an_admission(prefill=PROMPTS, drain=slow).wait_s == pytest.approx(21.0)
    assert an_admission(prefill=PROMPTS, drain=a_drain()).wait_s == pytest.approx(5.5)


def test_a_prompt_that_alone_takes_longer_than_the_wait_is_taken_when_none_is_before_it() -> None:
    huge = PrefillAhead(own_s=30.0, open=True)
    assert an_admission(running=0, prefill=huge, max_wait_s=10.0).verdict is Verdict.RUN
    behind = replace(huge, engine_s=0.1)
    assert an_admission(prefill=behind, max_wait_s=10.0).verdict is Verdict.REFUSE


def test_forecasts_that_fell_short_make_the_gate_refuse_earlier() -> None:
    drain = a_drain(remaining_s=(1.0,), service_s=4.0)
    load: dict[str, Any] = {"queued": 2, "max_wait_s": 10.0, "drain": drain}
    assert an_admission(**load, margin=1.1).verdict is Verdict.QUEUE
    assert an_admission(**load, margin=1.2).verdict is Verdict.REFUSE


SECONDS = st.floats(0, 60)


@given(
    engine_s=SECONDS, queued_s=SECONDS, own_s=SECONDS, more_s=SECONDS, returning=st.booleans(),
    margin=st.floats(1, 3),
)  # fmt: skip
def test_more_to_read_never_makes_it_better(
    engine_s: float, queued_s: float, own_s: float, more_s: float, returning: bool, margin: float
) -> None:
    prefill = PrefillAhead(engine_s, queued_s, own_s, open=False)
    longer = (
        replace(prefill, engine_s=engine_s + more_s),
        replace(prefill, queued_s=queued_s + more_s),
    )
    load: dict[str, Any] = {
        "slots": 4, "running": 2, "queued": 1, "max_wait_s": 30.0, "returning": returning,
        "margin": margin,
    }  # fmt: skip
    before = an_admission(**load, prefill=prefill)
    for after in (an_admission(**load, prefill=one) for one in longer):
        assert SEVERITY[before.verdict] <= SEVERITY[after.verdict]
        if before.verdict is Verdict.REFUSE:
            assert before.retry_after_s <= after.retry_after_s


@given(engine_s=SECONDS, queued_s=SECONDS, own_s=SECONDS, margin=st.floats(1, 3))
def test_whoever_is_admitted_behind_prompts_is_expected_in_time(
    engine_s: float, queued_s: float, own_s: float, margin: float
) -> None:
    prefill = PrefillAhead(engine_s, queued_s, own_s, open=False)
    admission = an_admission(
        slots=4, running=2, queued=1, max_wait_s=30.0, prefill=prefill, margin=margin
    )
    if admission.verdict is Verdict.QUEUE and prefill.read_s:
        assert admission.wait_s * margin <= 30.0 + 1e-6


def test_room_is_kept_for_those_who_retry_at_their_retry_after() -> None:
    load: dict[str, Any] = {"queued": 3, "reserved": 1, "max_queued_requests": 4}
    assert an_admission(**load, returning=False).verdict is Verdict.REFUSE
    assert an_admission(**load, returning=True).verdict is Verdict.QUEUE


def test_who_comes_back_finds_a_bound_all_the_same() -> None:
    load: dict[str, Any] = {"max_queued_requests": 4, "returning": True}
    assert an_admission(queued=5, **load).verdict is Verdict.QUEUE
    assert an_admission(queued=6, **load).verdict is Verdict.REFUSE


def test_who_comes_back_may_wait_twice_as_long_but_not_for_ever() -> None:
    drain = a_drain(remaining_s=(1.0,), service_s=4.0)
    load: dict[str, Any] = {"max_queued_requests": 100, "max_wait_s": 10.0, "drain": drain}
    assert an_admission(queued=3, returning=True, **load).verdict is Verdict.QUEUE
    assert an_admission(queued=5, returning=True, **load).verdict is Verdict.REFUSE


def test_promises_never_keep_more_than_half_the_line() -> None:
    load: dict[str, Any] = {"reserved": 1000, "max_queued_requests": 4}
    assert an_admission(queued=1, **load).verdict is Verdict.QUEUE
    assert an_admission(queued=2, **load).verdict is Verdict.REFUSE


def test_without_a_line_what_does_not_run_is_refused() -> None:
    assert an_admission(running=0, max_queued_requests=0).verdict is Verdict.RUN
    assert an_admission(running=1, max_queued_requests=0).verdict is Verdict.REFUSE


@given(
    queued=FEW, more=FEW, running=st.integers(0, 4), reserved=FEW,
    returning=st.booleans(), max_wait_s=st.floats(0.1, 50),
)  # fmt: skip
def test_a_longer_queue_never_makes_it_better(
    queued: int, more: int, running: int, reserved: int, returning: bool, max_wait_s: float,
) -> None:  # fmt: skip
    drain = a_drain(remaining_s=(1.0, 2.0, 3.0, 4.0), service_s=4.0)
    verdicts = [
        an_admission(
            slots=4, running=running, queued=length, reserved=reserved,
            returning=returning, drain=drain, max_wait_s=max_wait_s, max_queued_requests=8,
        ).verdict
        for length in (queued, queued + more)
    ]  # fmt: skip
    assert SEVERITY[verdicts[0]] <= SEVERITY[verdicts[1]]


@given(queued=FEW, reserved=FEW, more=FEW, slots=st.integers(1, 4), bound=st.integers(0, 6))
def test_retry_after_is_at_least_a_second_and_grows_with_earlier_reservations(
    queued: int, reserved: int, more: int, slots: int, bound: int
) -> None:
    drain = a_drain(remaining_s=tuple(range(slots)), service_s=5.0)
    first, later = (
        an_admission(
            slots=slots, running=slots, queued=queued, reserved=more_reserved, drain=drain,
            max_queued_requests=bound,
        )
        for more_reserved in (reserved, reserved + more)
    )  # fmt: skip
    assert SEVERITY[first.verdict] <= SEVERITY[later.verdict]
    if first.verdict is Verdict.REFUSE:
        assert 1 <= first.retry_after_s <= later.retry_after_s
    else:
        assert first.retry_after_s == 0


@given(queued=FEW, reserved=FEW, slots=st.integers(1, 4), bound=st.integers(1, 6))
def test_at_retry_after_the_queue_has_capacity(
    queued: int, reserved: int, slots: int, bound: int
) -> None:
    drain = a_drain(remaining_s=tuple(float(slot) for slot in range(slots)), service_s=5.0)
    admission = an_admission(
        slots=slots, running=slots, queued=queued, reserved=reserved, drain=drain,
        max_queued_requests=bound,
    )  # fmt: skip
    if admission.verdict is Verdict.REFUSE:
        started = drain.starts_within(admission.retry_after_s)
        # All who got a Retry-After before are in the queue by then.
        assert queued + reserved - started < bound


def test_a_free_slot_is_kept_for_one_that_would_find_none() -> None:
    """Two slots; the other one is busy for a minute, and one that was refused comes in 5 s."""
    drain = a_drain(remaining_s=(0.0, 60.0), service_s=150.0)
    load: dict[str, Any] = {"slots": 2, "running": 1, "drain": drain, "max_wait_s": 10.0}
    assert an_admission(**load, due_by=one_by_one(5.0)).verdict is Verdict.REFUSE
    assert an_admission(**load, due_by=one_by_one(5.0), returning=True).verdict is Verdict.RUN
    # By then the other one is free.
    assert an_admission(**load, due_by=one_by_one(55.0)).verdict is Verdict.RUN


def test_a_slot_that_is_free_again_by_then_is_taken() -> None:
    drain = a_drain(remaining_s=(0.0, 60.0), service_s=4.0)
    load: dict[str, Any] = {"slots": 2, "running": 1, "drain": drain, "max_wait_s": 10.0}
    assert an_admission(**load, due_by=one_by_one(5.0)).verdict is Verdict.RUN


def test_a_refusal_says_how_far_apart_retries_have_to_be() -> None:
    drain = a_drain(remaining_s=(60.0,) * 10, service_s=100.0)
    load: dict[str, Any] = {"slots": 10, "running": 10, "drain": drain, "max_wait_s": 10.0}
    refused = an_admission(**load)
    assert refused.verdict is Verdict.REFUSE
    # One start in 10 s, and the spare capacity.
    assert 10.0 <= refused.apart_s <= 13.0
    half = Standing(queued=5, share=0.5, drain_share=0.5)
    assert an_admission(**load, standing=half).apart_s == pytest.approx(2 * refused.apart_s)


def one_by_one(*due_in_s: float) -> tuple[DueBy, ...]:
    return tuple(DueBy(due_s, count) for count, due_s in enumerate(sorted(due_in_s), start=1))


def waits_s(drain: Drain, due_by: Sequence[DueBy], *, queued: int, holds_s: float) -> list[float]:
    """Of those that are due, in a schedule in which all begin in order, no sooner than they are
    there, behind a new request that holds its slot for `holds_s`."""
    slots, waits = list(drain.remaining_s), list[float]()
    heapq.heapify(slots)
    for _ in range(queued):
        heapq.heapreplace(slots, slots[0] + drain.service_s)
    heapq.heapreplace(slots, slots[0] + holds_s)
    for due_s, _ in due_by:
        start_s = max(slots[0], due_s)
        heapq.heapreplace(slots, start_s + drain.service_s)
        waits.append(start_s - due_s)
    return waits


SLOTS_S = st.lists(st.floats(0, 100), min_size=1, max_size=12)
DUE = st.lists(st.floats(0, 100), max_size=12).map(lambda due_in_s: one_by_one(*due_in_s))


@given(SLOTS_S, DUE, st.integers(0, 5), st.floats(0, 30))
def test_promises_are_kept_as_long_as_a_schedule_keeps_them(
    remaining_s: list[float], due_by: tuple[DueBy, ...], queued: int, wait_s: float
) -> None:
    """What begins stays for longer than those are looked at that come."""
    drain = a_drain(remaining_s=remaining_s, service_s=150.0)
    kept = all(wait <= wait_s for wait in waits_s(drain, due_by, queued=queued, holds_s=150.0))
    own = Standing(queued=queued)
    assert keeps_promises(drain, due_by, own, sequences=1, holds_s=150.0, wait_s=wait_s) == kept


@given(
    st.lists(st.floats(0, 20), min_size=1, max_size=6),
    st.lists(st.floats(0, 100), min_size=1, max_size=60),
    st.integers(0, 5),
    st.floats(0.5, 20),
    st.floats(0, 30),
)
def test_one_that_is_longer_than_those_that_are_due_leaves_them_their_turns(
    remaining_s: list[float],
    due_in_s: list[float],
    queued: int,
    service_s: float,
    wait_s: float,
) -> None:
    """Slots are used again and again while it holds its own: by the schedule nobody waits for more
    than a turn longer."""
    drain, due_by = a_drain(remaining_s=remaining_s, service_s=service_s), one_by_one(*due_in_s)
    own, holds_s = Standing(queued=queued), 150.0
    if keeps_promises(drain, due_by, own, sequences=1, holds_s=holds_s, wait_s=wait_s):
        longest_s = max(waits_s(drain, due_by, queued=queued, holds_s=holds_s))
        assert longest_s <= wait_s + service_s + 1e-6


def test_one_that_is_over_before_those_that_are_due_need_its_slot_is_let_in() -> None:
    drain, own = a_drain(remaining_s=(0.0, 60.0), service_s=150.0), Standing()
    due_by = one_by_one(20.0)
    assert not keeps_promises(drain, due_by, own, sequences=1, holds_s=150.0, wait_s=10.0)
    assert keeps_promises(drain, due_by, own, sequences=1, holds_s=25.0, wait_s=10.0)


@given(SLOTS_S, DUE, st.integers(0, 5), st.floats(0, 30))
def test_times_that_are_spread_break_no_promise_that_equal_ones_keep(
    remaining_s: list[float], due_by: tuple[DueBy, ...], queued: int, wait_s: float
) -> None:
    equal = a_drain(remaining_s=remaining_s, service_s=150.0)
    own, spread = Standing(queued=queued), replace(equal, spread=1.0)
    if keeps_promises(equal, due_by, own, sequences=1, holds_s=150.0, wait_s=wait_s):
        assert keeps_promises(spread, due_by, own, sequences=1, holds_s=150.0, wait_s=wait_s)


@given(
    st.lists(st.floats(0, 200), min_size=1, max_size=6),
    st.lists(st.floats(0, 200), max_size=20),
    st.integers(0, 3),
    st.floats(0, 30),
    st.floats(0, 1),
)
def test_those_that_come_when_it_has_ended_need_no_look(
    remaining_s: list[float], due_in_s: list[float], queued: int, wait_s: float, spread: float
) -> None:
    drain = replace(a_drain(remaining_s=remaining_s, service_s=150.0), spread=spread)
    own, early_s = Standing(queued=queued), [due for due in due_in_s if due < 150.0 - wait_s]
    kept, early = (
        keeps_promises(drain, one_by_one(*due), own, sequences=1, holds_s=150.0, wait_s=wait_s)
        for due in (due_in_s, early_s)
    )
    assert kept == early


def test_of_what_begins_meanwhile_a_part_has_ended_where_times_are_spread() -> None:
    """Ten free slots for a service time of 100 s, and an eleventh one that comes after 40 s: by
    Little's law four of those that begin now have ended."""
    equal = a_drain(remaining_s=(0.0,) * 10, service_s=100.0)

    def kept(drain: Drain, *due_in_s: float) -> bool:
        due_by = one_by_one(*due_in_s)
        return keeps_promises(drain, due_by, Standing(), sequences=1, holds_s=100.0, wait_s=0.0)

    assert not kept(equal, *(5.0,) * 9, 40.0)
    assert kept(replace(equal, spread=1.0), *(5.0,) * 9, 40.0)
    assert not kept(replace(equal, spread=1.0), *(5.0,) * 9, *(40.0,) * 5)
