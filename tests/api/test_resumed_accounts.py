"""What a stream that goes on at another replica costs its key there, and how it is counted, logged
and traced."""

import asyncio
import logging
from typing import Any

import pytest

from serve_app.api.edge import TierEdge
from serve_app.core.access.lease import Amounts, Refusal, Usage
from serve_app.errors import engine_stopped
from tests.api.asgi import Call, FakeEngine, call
from tests.api.fake_keys import TEAM, FakeKeys, FakeQuotas, a_fake_desk, a_key, bearer
from tests.api.followed import ID, STREAM, SteppingEngine, Taken, marked, resumed
from tests.api.test_tracing import Recorded
from tests.builders import a_gate, an_edge, count, idle
from tests.virtual_time import run_virtual, virtual

LIMITED = {TEAM: a_key(requests_per_minute=10, tokens_per_minute=1000, max_concurrent=1)}
PAYLOAD = {**STREAM, "max_tokens": 20}
# Each step has two tokens.
HELLO = [["He"], ["l"], ["lo"], ["!"]]
TWO_STEPS = Taken([b"data: 1", b"data: 2", b"data: 3"], [b"0 0 0,0", b"0 0 1,1"])


def a_limited_edge(quotas: FakeQuotas, **engine: Any) -> TierEdge:
    edge = an_edge(FakeEngine(SteppingEngine(HELLO, **engine)), gate=a_gate(slots=2))
    edge.access = a_fake_desk(FakeKeys(LIMITED), quotas)
    return edge


def rest_of(edge: TierEdge, **how: Any) -> Call:
    body, headers = resumed(PAYLOAD, TWO_STEPS, **how)
    return Call(edge, body=body, headers=[*headers, *bearer(TEAM)])


@virtual
async def test_what_is_handed_over_is_charged_what_is_made_here_and_no_request() -> None:
    quotas = FakeQuotas()
    rest = rest_of(a_limited_edge(quotas), only_with_room=True)
    await rest.done
    assert rest.status == 200
    (grant,) = quotas.grants
    # Of 20 tokens 4 were made elsewhere.
    assert grant.need == Amounts(tokens=16)
    (used,) = quotas.settled
    assert used == Usage(answer_tokens=4, gpu_s=0.0)
    assert [usage for _, usage in quotas.counted] == [used]


@virtual
async def test_what_was_lost_is_not_charged_again_and_is_counted() -> None:
    quotas = FakeQuotas()
    rest = rest_of(a_limited_edge(quotas))
    await rest.done
    assert (quotas.grants, quotas.taken_over) == ([], [(ID, Amounts(tokens=16))])
    assert [usage for _, usage in quotas.counted] == [Usage(answer_tokens=4)]


@virtual
async def test_a_key_that_has_nothing_left_gets_the_rest_of_what_was_lost() -> None:
    refusal = Refusal("max_concurrent", 1, 1.0)
    quotas = FakeQuotas(refusal=refusal)
    lost = rest_of(a_limited_edge(quotas))
    await lost.done
    assert lost.status == 200
    # What still runs elsewhere goes on there instead.
    handed_over = rest_of(a_limited_edge(quotas), only_with_room=True)
    await handed_over.done
    assert handed_over.status == 429
    assert sum(usage.refused for _, usage in quotas.counted) == 0


@virtual
async def test_a_stream_that_was_made_to_its_end_elsewhere_costs_nothing_here() -> None:
    quotas = FakeQuotas()
    edge = a_limited_edge(quotas)
    steps = [b"0 0 %d,%d" % (number, number) for number in range(4)]
    body, headers = resumed(PAYLOAD, Taken([b"data: 1"] * 5, steps), only_with_room=True)
    rest = await call(edge, body=body, headers=[*headers, *bearer(TEAM)])
    assert len(Taken.of(rest.text).events) == 2
    assert quotas.settled == [Usage()]


@virtual
async def test_a_stream_that_is_lost_here_is_charged_as_far_as_it_came() -> None:
    quotas = FakeQuotas()
    edge = a_limited_edge(quotas, hangs_at=2)
    made = Call(edge, payload=PAYLOAD, headers=[*marked(), *bearer(TEAM)])
    await asyncio.sleep(1)
    edge.deadlines.end(engine_stopped)
    await made.done
    (used,) = quotas.settled
    assert used is not None
    assert (used.requests, used.prompt_tokens, used.answer_tokens) == (1, 10, 4)
    assert idle(edge.gate)


def test_a_stream_that_went_on_is_one_request_and_none_of_its_times_is_of_a_whole_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    edge = a_limited_edge(FakeQuotas())

    async def went_on() -> None:
        await rest_of(edge, replays=2).done

    with caplog.at_level(logging.INFO):
        run_virtual(went_on())
    assert count(edge, "requests_total", status="200") == 1
    assert count(edge, "resumed_streams_total") == 1
    for name in ("e2e_seconds_count", "ttft_seconds_count"):
        assert count(edge, name) == 0
    assert not edge.gate.service.measured
    (line,) = [each.__dict__ for each in caplog.records if each.message == "request"]
    assert (line["request_id"], line["replayed"], line["outcome"]) == (ID, 2, "served")
    # All of the request's.
    assert (line["prompt_tokens"], line["output_tokens"]) == (10, 8)


def test_a_stream_that_leaves_says_so_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    edge = a_limited_edge(FakeQuotas(), hangs_at=1)

    async def handed_over() -> None:
        made = Call(edge, payload=PAYLOAD, headers=[*marked(), *bearer(TEAM)])
        await asyncio.sleep(1)
        draining = asyncio.create_task(edge.hand_over.offer())
        await asyncio.sleep(1)
        made.leave()
        await made.done
        draining.cancel()

    with caplog.at_level(logging.INFO):
        run_virtual(handed_over())
    (line,) = [each.__dict__ for each in caplog.records if each.message == "request"]
    assert (line["status"], line["reason"]) == (499, "handed_over")


@virtual
async def test_the_span_of_a_stream_that_went_on_says_so() -> None:
    recorded = Recorded()
    edge = recorded.on(an_edge(FakeEngine(SteppingEngine(HELLO))))
    body, headers = resumed(PAYLOAD, TWO_STEPS)
    await call(edge, body=body, headers=headers)
    assert recorded.root.attributes is not None
    assert recorded.root.attributes["tierserve.replayed"] == 1
    plain = Recorded()
    await call(plain.on(edge), payload=PAYLOAD)
    assert plain.root.attributes is not None
    assert "tierserve.replayed" not in plain.root.attributes
