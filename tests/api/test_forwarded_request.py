"""What a replica forwards beside the body: a lender gets the borrower's plan, and only from it; a
replica of the same tier gets the request as it came."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Send

from serve_app.api.edge import TierEdge
from serve_app.api.lending import BORROWED_HEADER, PLAN_HEADER, Lender, LendingDesk, written_plan
from serve_app.api.response import DECIDING
from serve_app.api.routes import CHAT_COMPLETIONS
from serve_app.api.rules import PreparedRequest
from serve_app.config.answers import AnswerCacheConfig, AnswersConfig
from serve_app.core.generation import GENERATION, Generation
from serve_app.core.reasoning.answer_policy import AnswerPolicy
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.core.reasoning.trace import ThoughtEnd
from serve_app.core.tiers import Tier
from tests.api.asgi import Call, FakeEngine, answers, answers_on, call, sse_data, streams
from tests.api.loopback import served
from tests.api.test_edge_answers import FIRST, LAST, WHOLE, thinks
from tests.api.test_forwarding import until
from tests.api.test_lending import mounted
from tests.builders import a_gate, an_edge, count, forwarded_by_a_replica, some_settings

DONE = {"id": "chatcmpl-1", "choices": [], "model": "reasoning"}
FORGED = ThinkingPlan(enabled=True, answer_tokens=1, answer_share=0.01, most_tokens=99_999)
PLANS = st.none() | st.builds(
    ThinkingPlan,
    enabled=st.booleans(),
    answer_tokens=st.integers(1, 9999),
    answer_share=st.floats(0.01, 0.99),
    most_tokens=st.none() | st.integers(0, 9999),
    effort=st.floats(0.1, 1.0),
    forced=st.booleans(),
)


def prepared(plan: ThinkingPlan | None, stop_repetition: bool = True) -> PreparedRequest:
    return PreparedRequest({"model": "chat"}, 1, 10, False, plan, stop_repetition)


def read_by(desk: LendingDesk, *headers: tuple[bytes, bytes]) -> PreparedRequest:
    scope = {"headers": list(headers)}
    return desk.prepare(scope, {"model": "chat"}, CHAT_COMPLETIONS, Tier.CHAT, 100)


@given(PLANS, st.booleans())
def test_a_plan_is_read_as_it_was_written(plan: ThinkingPlan | None, stop: bool) -> None:
    value = written_plan(prepared(plan, stop)).encode()
    read = read_by(LendingDesk(Tier.REASONING), (PLAN_HEADER, value))
    assert (read.plan, read.stop_repetition) == (plan, stop)
    assert read.payload == {"model": "reasoning"}


def test_without_a_plan_what_is_borrowed_is_generated_as_it_is_asked_for() -> None:
    read = read_by(LendingDesk(Tier.REASONING))
    assert (read.plan, read.stop_repetition) == (None, False)


# --- through both edges


def noting(seen: list[Generation | None], body: object = DONE) -> FakeEngine:
    async def answering(payload: dict[str, Any], send: Send) -> None:
        seen.append(GENERATION.get())
        await answers(body)(payload, send)

    return FakeEngine(answering)


@asynccontextmanager
async def full_chat(
    other: TierEdge, *, lends: bool, slots: int = 1, **changed: Any
) -> AsyncIterator[TierEdge]:
    """A chat replica one of whose slots is taken, beside one of reasoning or of its own tier."""
    free = asyncio.Event()
    engine = FakeEngine(answers_on(free, DONE))
    root = "/api/reasoning" if lends else "/api/chat"
    async with served(mounted(other, root)) as url:
        lent_by = [Lender(Tier.REASONING, url, other.reader.desk.key)] if lends else []
        chat = an_edge(
            engine,
            gate=a_gate(slots=slots, clock_s=time.monotonic),
            settings=some_settings(relay_after_s=0.01).model_copy(update=changed),
            peer_urls=[] if lends else [url],
            lent_by=lent_by,
            thinks=True,
            clock_s=time.monotonic,
        )
        filling = Call(chat, payload={"prompt": "fills"})
        await until(lambda: engine.running == 1)
        try:
            yield chat
        finally:
            free.set()
            await filling.done
            await chat.forwarder.close()


def a_lender(engine: FakeEngine, **cache: Any) -> TierEdge:
    settings = some_settings(max_new_tokens=2048)
    if cache:
        settings = settings.model_copy(update={"answer_cache": AnswerCacheConfig(**cache)})
    return an_edge(
        engine,
        tier=Tier.REASONING,
        gate=a_gate(slots=4, lend_share=0.5, clock_s=time.monotonic),
        settings=settings,
        thinks=True,
        clock_s=time.monotonic,
    )


@pytest.mark.parametrize("forged", [None, written_plan(prepared(FORGED)).encode(), b"{"])
async def test_a_lender_thinks_by_the_borrowers_plan_and_never_by_a_clients(
    forged: bytes | None,
) -> None:
    seen: list[Generation | None] = []
    headers = [] if forged is None else [(PLAN_HEADER, forged)]
    async with full_chat(a_lender(noting(seen)), lends=True) as chat:
        asked = {"prompt": "hi", "thinking_token_budget": 50}
        assert (await call(chat, payload=asked, headers=headers)).status == 200
    (generation,) = seen
    assert generation is not None
    assert generation.stop_repetition
    assert generation.plan == ThinkingPlan(True, 256, 0.25, 50, 1.0, True)


async def test_a_plan_without_a_true_mark_is_not_read() -> None:
    seen: list[Generation | None] = []
    lender = a_lender(noting(seen))
    value = (PLAN_HEADER, written_plan(prepared(FORGED)).encode())
    own = await call(mounted(lender, "/api/chat"), payload={"prompt": "hi"}, headers=[value])
    assert own.status == 200
    (generation,) = seen
    assert generation is not None
    assert generation.plan is not None
    assert generation.plan.most_tokens == 2048 - 512
    false_mark = (BORROWED_HEADER, b"chat 0123")
    refused = await call(
        mounted(lender, "/api/chat"),
        payload={"prompt": "hi"},
        headers=[false_mark, value, *forwarded_by_a_replica()],
    )
    assert refused.status == 403
    assert len(seen) == 1


async def test_what_a_lender_ran_for_another_tier_is_not_kept_under_its_own_name() -> None:
    engine = noting([])
    lender = a_lender(engine, enabled=True)
    asked = {"prompt": "hi", "temperature": 0, "max_tokens": 9}
    async with full_chat(lender, lends=True) as chat:
        for _ in range(2):
            borrowed = await call(chat, payload=asked)
            assert json.loads(borrowed.text)["model"] == "chat"
    assert lender.cache.size_bytes == 0
    assert len(engine.asked) == 2


async def test_a_replica_of_the_same_tier_applies_the_tiers_rules_once() -> None:
    """Applied twice, a system prompt that is folded into the question would stand there twice."""
    seen: list[Generation | None] = []
    engine = noting(seen)
    peer = an_edge(
        engine,
        gate=a_gate(clock_s=time.monotonic),
        settings=some_settings(system_prompt="Be brief."),
        thinks=True,
        clock_s=time.monotonic,
    )
    async with full_chat(peer, lends=False, system_prompt="Be brief.") as chat:
        asked = {"prompt": "1+1?", "task": "math", "temperature": 1.5}
        made = await call(chat, payload=asked)
    (sent,) = engine.asked
    assert sent["messages"][0]["content"].startswith("Be brief.\n\n1+1?\n")
    assert sent["messages"][0]["content"].count("Be brief.") == 1
    headers = [name for name, _ in made.messages[0]["headers"]]
    assert headers.count(b"x-tierserve-warning") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_replica_of_the_same_tier_ran_is_kept_with_its_metadata(stream: bool) -> None:
    answering = streams(FIRST, LAST, b"data: [DONE]\n\n") if stream else answers(WHOLE)
    engine = FakeEngine(thinks(answering, ThoughtEnd.CUT))
    gate = a_gate(clock_s=time.monotonic)
    peer = an_edge(engine, gate=gate, thinks=True, clock_s=time.monotonic)
    cache = AnswerCacheConfig(enabled=True)
    async with full_chat(peer, lends=False, answer_cache=cache) as chat:
        asked = {"prompt": "hi", "temperature": 0, "stream": stream}
        first, again = await call(chat, payload=asked), await call(chat, payload=asked)
        assert (len(engine.asked), again.headers["x-tierserve-cache"]) == (1, "hit")
    assert '"end":"cut"' in again.text
    assert again.headers.get("x-tierserve-thought") == first.headers.get("x-tierserve-thought")
    assert stream or again.headers["x-tierserve-thought"] == "cut"
    assert sse_data(again.text) == [
        line.replace("chatcmpl-old", f"chatcmpl-{again.headers['x-request-id']}")
        for line in sse_data(first.text)
    ]


async def test_the_gaps_of_a_lent_stream_do_not_count_if_it_is_voted_on() -> None:
    lender = a_lender(FakeEngine(streams(FIRST, LAST, b"data: [DONE]\n\n", every_s=0.05)))
    async with full_chat(lender, lends=True, slots=2) as chat:
        made = await call(chat, payload={"prompt": "hi", "stream": True, "answer_policy": "vote"})
        assert made.status == 200
        assert count(chat, "itl_seconds_count") == 0


async def test_the_heartbeats_of_a_forwarded_vote_are_neither_kept_nor_its_first_chunk() -> None:
    decided = asyncio.Event()

    async def voting(payload: dict[str, Any], send: Send) -> None:
        await decided.wait()
        # As a heartbeat and the first event come that were read together.
        await streams(DECIDING + FIRST, LAST, b"data: [DONE]\n\n")(payload, send)

    engine = FakeEngine(voting)
    votes = AnswersConfig(policy=AnswerPolicy.VOTE, vote_samples=2)
    settings = some_settings(heartbeat_s=0.02).model_copy(update={"answers": votes})
    gate = a_gate(slots=2, clock_s=time.monotonic)
    peer = an_edge(engine, gate=gate, settings=settings, clock_s=time.monotonic)
    cache = AnswerCacheConfig(enabled=True)
    async with full_chat(peer, lends=False, slots=2, answer_cache=cache, answers=votes) as chat:
        asked = {"prompt": "hi", "seed": 7, "stream": True}
        first = Call(chat, payload=asked)
        await until(lambda: b": deciding" in b"".join(m.get("body", b"") for m in first.messages))
        began_s = time.monotonic()
        await asyncio.sleep(0.2)
        undecided_s = time.monotonic() - began_s
        decided.set()
        await first.done
        again = await call(chat, payload=asked)
        assert (len(engine.asked), again.headers["x-tierserve-cache"]) == (1, "hit")
        assert count(chat, "ttft_seconds_sum") >= undecided_s
    assert ": deciding" in first.text
    assert ": deciding" not in again.text
    assert sse_data(again.text)[-1] == "[DONE]"
