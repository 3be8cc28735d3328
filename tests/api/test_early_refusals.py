"""What floods a full tier is refused without a look at it, and nobody else is."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.early_refusals import LOG_EVERY_S, VALID_S, EarlyRefusals
from serve_app.api.edge import TierEdge
from serve_app.api.gate import Gate, GateFullError
from serve_app.config.answers import AnswerCacheConfig
from serve_app.core.admission.fairness import Flow
from serve_app.core.tiers import Tier
from tests.api.asgi import Call, FakeEngine, answers, call
from tests.api.fake_keys import FakeKeys, FakeQuotas, a_fake_desk, a_key, bearer
from tests.builders import a_gate, a_reading_gate, an_edge, count, idle
from tests.virtual_time import now_s, run_virtual, virtual

FLOOD, LIGHT = b"ts-aaaaaaaa-flood", b"ts-bbbbbbbb-light"
DONE = {"object": "chat.completion", "choices": []}
# Longer than any prompt here: what was refused says nothing of smaller ones.
NO_JSON = b"{no json at all" + b" " * 200
SERVICE_S = 10.0


def a_tier(*, slots: int = 2, queued: int = 3) -> tuple[TierEdge, FakeQuotas]:
    engine = FakeEngine(answers(DONE, after_s=SERVICE_S))
    gate = a_gate(slots=slots, max_queued_requests=queued, service_s=SERVICE_S)
    edge = an_edge(engine, gate=gate)
    quotas = FakeQuotas()
    keys = FakeKeys({FLOOD: a_key("flood"), LIGHT: a_key("light")})
    edge.access = a_fake_desk(keys, quotas, tier=Tier.CHAT)
    return edge, quotas


def of(key: bytes, edge: TierEdge, prompt: str = "Count.") -> Call:
    return Call(edge, "", {"prompt": prompt}, headers=bearer(key))


async def garbage(key: bytes, edge: TierEdge, text: bytes = b"") -> Call:
    """What goes the whole way is found to be no JSON."""
    return await call(edge, "", body=NO_JSON + text, headers=bearer(key))


async def fill(edge: TierEdge, requests: int = 6) -> list[Call]:
    """The flood's first requests, the last of which is refused the whole way."""
    calls = [of(FLOOD, edge, f"Count to {number}.") for number in range(requests)]
    await asyncio.wait({calls[-1].done})
    assert calls[-1].status == 429
    return calls


async def end(calls: Sequence[Call]) -> None:
    await asyncio.gather(*(each.done for each in calls))


@virtual
async def test_what_floods_is_refused_unread_each_with_a_time_of_its_own() -> None:
    edge, quotas = a_tier()
    calls = await fill(edge)
    refused = [await garbage(FLOOD, edge, b"%d" % number) for number in range(4)]
    assert {each.status for each in refused} == {429}
    assert {each.error["code"] for each in refused} == {"queue_full"}
    after_s = [int(each.headers["retry-after"]) for each in refused]
    assert after_s == sorted(after_s)
    assert after_s[0] >= int(calls[-1].headers["retry-after"])
    assert after_s[-1] > after_s[0]
    assert count(edge, "refused_total", reason="queue_full") == 5
    assert count(edge, "requests_total", status="429") == 5
    assert sum(usage.refused for _, usage in quotas.counted) == 5
    await end(calls)
    assert idle(edge.gate)


@virtual
async def test_another_key_is_looked_at_and_queued() -> None:
    edge, _ = a_tier()
    calls = await fill(edge)
    assert (await garbage(LIGHT, edge)).status == 400
    light = of(LIGHT, edge)
    await end([*calls, light])
    assert light.status == 200


@virtual
async def test_a_refusal_for_its_own_deadline_says_nothing_of_others() -> None:
    edge, _ = a_tier(slots=1, queued=9)
    calls = [of(FLOOD, edge), of(FLOOD, edge, "Wait.")]
    await asyncio.sleep(0.1)
    quick = {"prompt": "Be quick.", "deadline_ms": 8000}
    late = await call(edge, "", quick, headers=bearer(FLOOD))
    assert (late.status, late.error["code"]) == (429, "deadline_unreachable")
    assert (await garbage(FLOOD, edge)).status == 400
    await end(calls)


@virtual
async def test_after_a_moment_it_is_looked_at_again() -> None:
    edge, _ = a_tier()
    calls = await fill(edge)
    await asyncio.sleep(VALID_S)
    assert (await garbage(FLOOD, edge)).status == 400
    await end(calls)


@virtual
async def test_once_one_of_its_own_begins_the_next_one_has_its_place() -> None:
    edge, _ = a_tier(slots=1, queued=1)
    calls = [of(FLOOD, edge)]
    await asyncio.sleep(SERVICE_S - VALID_S / 2)
    calls += [of(FLOOD, edge, "Wait."), refused := of(FLOOD, edge, "Come in vain.")]
    await end([refused])
    assert (await garbage(FLOOD, edge)).status == 429
    await end(calls[:1])
    calls.append(of(FLOOD, edge, "Come in time."))
    await end(calls)
    assert [each.status for each in calls] == [200, 200, 429, 200]


@virtual
async def test_who_comes_back_when_it_should_finds_the_room_that_was_kept() -> None:
    edge, _ = a_tier()
    calls = await fill(edge)
    early = of(FLOOD, edge, "Refused unread.")
    await end([early])
    assert early.status == 429
    due_s = now_s() + int(early.headers["retry-after"])
    while now_s() < due_s:
        # Others of the flood come all the time, and are refused until the last moment.
        await garbage(FLOOD, edge, b"%f" % now_s())
        calls.append(of(FLOOD, edge, f"Count to {now_s()}."))
        await asyncio.sleep(0.05)
    back = of(FLOOD, edge, "Refused unread.")
    await end([*calls, back])
    assert back.status == 200


@virtual
async def test_the_same_request_again_too_early_keeps_its_time() -> None:
    edge, _ = a_tier()
    calls = await fill(edge)
    times = [(await garbage(FLOOD, edge)).headers["retry-after"] for _ in range(5)]
    assert len(set(times)) == 1
    await end(calls)


@virtual
async def test_smaller_requests_than_the_refused_one_are_looked_at() -> None:
    edge, _ = a_tier()
    calls = [of(FLOOD, edge, "Count. " * 100) for _ in range(6)]
    await asyncio.wait({calls[-1].done})
    assert (await garbage(FLOOD, edge)).status == 400
    assert (await garbage(FLOOD, edge, b" " * 1000)).status == 429
    await end(calls)


@virtual
async def test_where_answers_are_kept_nothing_is_refused_unread() -> None:
    edge, _ = a_tier()
    edge.cache.config = AnswerCacheConfig(enabled=True)
    calls = await fill(edge)
    assert (await garbage(FLOOD, edge)).status == 400
    await end(calls)


def test_one_line_in_the_log_stands_for_all_of_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="serve_app.api.request_record")
    run_virtual(flood_for_two_seconds())
    lines = [line for line in caplog.records if getattr(line, "early", False)]
    assert [getattr(line, "also_refused", None) for line in lines] == [None, 4]


async def flood_for_two_seconds() -> None:
    edge, _ = a_tier()
    calls = await fill(edge)
    for number in range(5):
        await garbage(FLOOD, edge, b"%d" % number)
    await asyncio.sleep(LOG_EVERY_S)
    calls.append(of(FLOOD, edge, "The whole way again."))
    await end(calls[-1:])
    await garbage(FLOOD, edge)
    await end(calls)


def test_what_is_refused_unread_is_demand_as_well() -> None:
    async def scene() -> None:
        gate = a_reading_gate(slots=1, max_queued_requests=1)
        early, flow = EarlyRefusals(gate), Flow("flood")
        with ExitStack() as running:
            enter_all(gate, early, running, [flow] * 3)
            assert gate.demand is not None
            before = gate.demand.arrivals
            assert early.refusal(flow, 1, prompt_tokens=100, retried=False)
            assert gate.demand.arrivals != before

    run_virtual(scene())


def enter_all(gate: Gate, early: EarlyRefusals, running: ExitStack, flows: Sequence[Flow]) -> None:
    for flow in flows:
        try:
            running.enter_context(gate.enter(1, flow=flow, max_new_tokens=100, prompt_tokens=100))
        except GateFullError as full:
            early.observe(full, prompt_tokens=100, sequences=1, max_new_tokens=100)


FLOWS = (Flow("a"), Flow("b", weight=3.0), Flow("c"))


@given(
    st.lists(st.tuples(st.sampled_from(FLOWS), st.integers(0, 5)), max_size=60),
    st.integers(1, 8),
    st.integers(0, 8),
)
def test_a_flow_below_its_share_is_refused_unread_only_where_the_gate_would(
    steps: list[tuple[Flow, int]], slots: int, queued: int
) -> None:
    """A step is a request that comes, and how many of those that are there leave before it."""

    async def scene() -> None:
        gate = a_gate(slots=slots, max_queued_requests=queued, max_wait_s=20.0, service_s=SERVICE_S)
        early, present = EarlyRefusals(gate), list[ExitStack]()
        for number, (flow, leaving) in enumerate(steps):
            for _ in range(min(leaving, len(present))):
                present.pop(number % len(present)).close()
            standing = gate.standing(flow)
            refused = early.refusal(flow, number, prompt_tokens=100, retried=False)
            entry = ExitStack()
            try:
                entry.enter_context(gate.enter(1, flow=flow, prompt_tokens=100, max_new_tokens=100))
            except GateFullError as full:
                early.observe(full, prompt_tokens=100, sequences=1, max_new_tokens=100)
                continue
            present.append(entry)
            assert not (refused and standing.below_share(1, slots))
        for each in present:
            each.close()
        assert idle(gate)

    with suppress(asyncio.CancelledError):
        run_virtual(scene())
