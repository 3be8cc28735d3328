"""Run now, wait, or be refused: one request at a gate, by its load and drain."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.admission import Verdict
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
    assert an_admission(queued=4, promised=2, drain=drain).retry_after_s > admission.retry_after_s


def test_a_line_that_cannot_start_in_time_refuses_before_it_is_full() -> None:
    drain = a_drain(remaining_s=(1.0,), service_s=4.0)
    admission = an_admission(queued=3, max_queued_requests=100, max_wait_s=10.0, drain=drain)
    assert (admission.verdict, admission.reason) == (Verdict.REFUSE, "wait_too_long")
    assert an_admission(queued=2, max_wait_s=10.0, drain=drain).verdict is Verdict.QUEUE


@given(FEW)
def test_a_drain_that_was_not_measured_refuses_nobody_for_the_wait(queued: int) -> None:
    drain = a_drain(remaining_s=(500.0,), service_s=1000.0, measured=False)
    admission = an_admission(queued=queued, max_queued_requests=5, max_wait_s=1.0, drain=drain)
    assert admission.reason != "wait_too_long"
    assert (admission.verdict is Verdict.REFUSE) == (queued >= 5)


def test_room_is_kept_for_those_who_come_back_when_they_were_told_to() -> None:
    load: dict[str, Any] = {"queued": 3, "promised": 1, "max_queued_requests": 4}
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
    load: dict[str, Any] = {"promised": 1000, "max_queued_requests": 4}
    assert an_admission(queued=1, **load).verdict is Verdict.QUEUE
    assert an_admission(queued=2, **load).verdict is Verdict.REFUSE


def test_without_a_line_what_does_not_run_is_refused() -> None:
    assert an_admission(running=0, max_queued_requests=0).verdict is Verdict.RUN
    assert an_admission(running=1, max_queued_requests=0).verdict is Verdict.REFUSE


@given(
    queued=FEW, more=FEW, running=st.integers(0, 4), promised=FEW,
    returning=st.booleans(), measured=st.booleans(), max_wait_s=st.floats(0.1, 50),
)  # fmt: skip
def test_a_longer_line_never_makes_it_better(
    queued: int, more: int, running: int, promised: int, returning: bool, measured: bool,
    max_wait_s: float,
) -> None:  # fmt: skip
    drain = a_drain(remaining_s=(1.0, 2.0, 3.0, 4.0), service_s=4.0, measured=measured)
    verdicts = [
        an_admission(
            slots=4, running=running, queued=length, promised=promised,
            returning=returning, drain=drain, max_wait_s=max_wait_s, max_queued_requests=8,
        ).verdict
        for length in (queued, queued + more)
    ]  # fmt: skip
    assert SEVERITY[verdicts[0]] <= SEVERITY[verdicts[1]]


@given(queued=FEW, promised=FEW, more=FEW, slots=st.integers(1, 4), bound=st.integers(0, 6))
def test_the_time_to_come_back_is_at_least_a_second_and_grows_with_earlier_promises(
    queued: int, promised: int, more: int, slots: int, bound: int
) -> None:
    drain = a_drain(remaining_s=tuple(range(slots)), service_s=5.0)
    first, later = (
        an_admission(
            slots=slots, running=slots, queued=queued, promised=told, drain=drain,
            max_queued_requests=bound,
        )
        for told in (promised, promised + more)
    )  # fmt: skip
    assert SEVERITY[first.verdict] <= SEVERITY[later.verdict]
    if first.verdict is Verdict.REFUSE:
        assert 1 <= first.retry_after_s <= later.retry_after_s
    else:
        assert first.retry_after_s == 0


@given(queued=FEW, promised=FEW, slots=st.integers(1, 4), bound=st.integers(1, 6))
def test_at_the_time_to_come_back_the_line_has_room(
    queued: int, promised: int, slots: int, bound: int
) -> None:
    drain = a_drain(remaining_s=tuple(float(slot) for slot in range(slots)), service_s=5.0)
    admission = an_admission(
        slots=slots, running=slots, queued=queued, promised=promised, drain=drain,
        max_queued_requests=bound,
    )  # fmt: skip
    if admission.verdict is Verdict.REFUSE:
        started = drain.starts_within(admission.retry_after_s)
        # All who were told a time before stand in the line by then.
        assert queued + promised - started < bound
