"""Run, queue or refuse by what a flow finds: its own queue, its share, what others leave."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.admission.admission import Admission, Verdict
from serve_app.core.admission.fairness import Standing
from serve_app.core.admission.prefill import PrefillAhead
from tests.builders import a_drain, an_admission


def admission(standing: Standing, **more: Any) -> Admission:
    """At a full replica of eight slots, with a queue of 16 places."""
    drain = a_drain(remaining_s=[1.0] * 8, service_s=4.0)
    settings: dict[str, Any] = {
        "slots": 8,
        "running": 8,
        "drain": drain,
        "max_queued_requests": 16,
        "max_wait_s": 10.0,
        "standing": standing,
    }
    return an_admission(**(settings | more))


def test_what_others_have_waiting_is_not_the_flows_own_queue() -> None:
    others = Standing(others_queued=100, others_ahead=3, share=0.5, drain_share=0.5)
    decided = admission(others)
    assert (decided.verdict, decided.ahead) == (Verdict.QUEUE, 3)


def test_a_flow_has_the_places_that_others_leave_and_no_less_than_its_share() -> None:
    def queues(queued: int, others_queued: int) -> bool:
        standing = Standing(
            queued=queued, others_queued=others_queued, sequences=8 + queued, share=0.5
        )
        return admission(standing, max_wait_s=1000.0).verdict is Verdict.QUEUE

    assert queues(12, others_queued=3)
    assert not queues(13, others_queued=3)
    assert queues(7, others_queued=30)
    assert not queues(8, others_queued=30)


def test_below_its_share_of_the_slots_a_flow_is_not_refused_for_others() -> None:
    late = a_drain(remaining_s=[300.0] * 8, service_s=300.0)
    light = Standing(sequences=3, others_queued=16, share=0.5, drain_share=0.5)
    assert admission(light, drain=late).verdict is Verdict.QUEUE
    heavy = Standing(sequences=8, others_queued=16, share=0.5, drain_share=0.5)
    assert admission(heavy, drain=late).verdict is Verdict.REFUSE
    # A flow alone has only itself in its way.
    assert admission(Standing(sequences=3), drain=late).verdict is Verdict.REFUSE


def test_below_its_share_of_the_slots_its_own_prompts_may_still_be_in_its_way() -> None:
    flow = Standing(queued=2, sequences=3, share=0.5, drain_share=0.5)
    reading = PrefillAhead(engine_s=1.0, queued_s=20.0, own_s=1.0, mean_s=1.0, open=False)
    assert admission(flow, prefill=reading).verdict is Verdict.QUEUE
    own = PrefillAhead(engine_s=1.0, queued_s=20.0, flow_s=20.0, own_s=1.0, mean_s=1.0, open=False)
    assert admission(flow, prefill=own).verdict is Verdict.REFUSE


def test_who_has_half_of_the_starts_comes_back_after_twice_the_time() -> None:
    alone = admission(Standing(queued=16, sequences=24), reserved=20)
    beside = admission(
        Standing(queued=16, sequences=24, others_queued=0, share=0.5, drain_share=0.5),
        reserved=20,
    )
    assert alone.verdict is beside.verdict is Verdict.REFUSE
    assert beside.retry_after_s == pytest.approx(2 * alone.retry_after_s, rel=0.2)


@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 40),
    st.floats(0.05, 0.95),
    st.booleans(),
)
def test_more_of_others_never_lets_more_in(
    queued: int, others: int, reserved: int, share: float, returning: bool
) -> None:
    def admitted(others_queued: int) -> bool:
        standing = Standing(
            queued=queued,
            others_queued=others_queued,
            others_ahead=others_queued,
            sequences=8 + queued,
            share=share,
            drain_share=share,
        )
        decided = admission(standing, reserved=reserved, returning=returning)
        assert decided.verdict is not Verdict.RUN
        assert decided.retry_after_s >= (decided.verdict is Verdict.REFUSE)
        return decided.verdict is Verdict.QUEUE

    assert admitted(others) >= admitted(others + 1)
