"""A request with a deadline that another replica has begun, or would rather not run."""

import asyncio
from typing import Any

import pytest
from starlette.types import Send

from serve_app.api.answer_deadline import TIME_LEFT_HEADER, AnswerDeadline
from serve_app.api.edge import TierEdge
from serve_app.core.generation import GENERATION
from serve_app.core.reasoning.budget import ThinkingPlan
from tests.api.asgi import Call, FakeEngine, answers, call
from tests.api.followed import ID, STREAM, SteppingEngine, Taken, marked, resumed
from tests.builders import SECRET, a_reading_gate, an_edge, forwarded_by_a_replica, some_settings
from tests.virtual_time import now_s, virtual

DONE = {"object": "chat.completion", "choices": []}
HELLO = [["He"], ["l"], ["lo"], ["!"]]
TWO_STEPS = [b"0 0 0,0", b"0 0 1,1"]


class PlanningEngine(SteppingEngine):
    """Keeps the plans of the reasoning that it was asked with."""

    plans: list[ThinkingPlan | None]

    async def __call__(self, payload: dict[str, Any], send: Send) -> None:
        generation = GENERATION.get()
        assert generation is not None
        self.plans.append(generation.plan)
        await super().__call__(payload, send)


def a_thinking_edge(**gate: Any) -> tuple[TierEdge, PlanningEngine]:
    engine = PlanningEngine(HELLO)
    engine.plans = []
    settings = some_settings(max_new_tokens=1000, heartbeat_s=1000.0)
    gate_of_edge = a_reading_gate(**gate)
    return an_edge(FakeEngine(engine), gate=gate_of_edge, settings=settings, thinks=True), engine


def going_on(edge: TierEdge, so_far: Taken, *, left_s: float, deadline_ms: int) -> Call:
    body, headers = resumed({**STREAM, "deadline_ms": deadline_ms}, so_far)
    left = AnswerDeadline(deadline_ms, now_s() + left_s, now_s).mark(SECRET.key, ID)
    return Call(edge, body=body, headers=[*headers, (TIME_LEFT_HEADER, left.encode())])


def enabled(plan: ThinkingPlan | None) -> bool:
    assert plan is not None
    return plan.enabled


@virtual
async def test_reasoning_that_was_left_out_for_lack_of_time_stays_out_elsewhere() -> None:
    edge, engine = a_thinking_edge()
    made = await call(edge, payload={**STREAM, "deadline_ms": 700}, headers=marked())
    begun = Taken.of(made.text, 3)
    assert not enabled(engine.plans[-1])
    other, engine = a_thinking_edge()
    rest = going_on(other, begun, left_s=0.6, deadline_ms=700)
    await rest.done
    assert rest.status == 200
    assert not enabled(engine.plans[-1])
    whole = begun.then(Taken.of(rest.text)).events
    assert [event.replace(b',"replayed":1', b"") for event in whole] == Taken.of(made.text).events


@virtual
async def test_reasoning_that_had_begun_is_open_elsewhere_too() -> None:
    edge, engine = a_thinking_edge()
    made = await call(edge, payload={**STREAM, "deadline_ms": 60_000}, headers=marked())
    assert enabled(engine.plans[-1])
    other, engine = a_thinking_edge()
    rest = going_on(other, Taken.of(made.text, 3), left_s=0.6, deadline_ms=60_000)
    await rest.done
    assert rest.status == 200
    assert enabled(engine.plans[-1])


@virtual
async def test_a_stream_that_goes_on_waits_for_a_slot_as_long_as_it_has_time() -> None:
    """A new request of its length would be refused: its shortest answer takes three seconds."""
    edge, _ = a_thinking_edge(slots=1, step_ms=100.0)
    filling = Call(edge, payload={**STREAM, "max_tokens": 5})
    with edge.gate.enter(1):
        filling.leave()
        rest = going_on(
            edge,
            Taken([b"data: 1", b"data: 2", b"data: 3"], TWO_STEPS),
            left_s=2.0,
            deadline_ms=9000,
        )
        await asyncio.sleep(1.0)
    await rest.done
    assert rest.status == 200
    assert rest.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("left_s", "status", "code"), [(1.0, 429, "relay_no_room"), (9.0, 200, "")]
)
def test_what_another_replica_has_forwarded_goes_back_where_it_would_be_late(
    left_s: float, status: int, code: str
) -> None:
    @virtual
    async def test() -> None:
        edge = an_edge(FakeEngine(answers(DONE)), gate=a_reading_gate(step_ms=100.0))
        left = AnswerDeadline(9000, now_s() + left_s, now_s).mark(SECRET.key, "from-a-peer")
        headers = [*forwarded_by_a_replica(), (TIME_LEFT_HEADER, left.encode())]
        made = await call(edge, "", {"prompt": "hi", "deadline_ms": 9000}, headers=headers)
        assert made.status == status
        if code:
            assert made.error["code"] == code

    test()
