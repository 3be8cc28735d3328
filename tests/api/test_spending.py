"""What a request uses of its key's quota: reserved before it starts, settled however it ends."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.access import (
    TEMPLATE_TOKENS,
    USAGE_HEADER,
    Spending,
    most_tokens,
    read_usage,
    written_usage,
)
from serve_app.api.edge import TierEdge
from serve_app.api.forwarding import without_usage
from serve_app.api.limit_headers import duration
from serve_app.core.access.lease import Amounts, Refusal, Usage
from serve_app.core.generation import GENERATION, SequenceFacts
from serve_app.core.tiers import Tier
from tests.api.asgi import Call, FakeEngine, answers, answers_on, breaks, call, streams
from tests.api.fake_keys import TEAM, FakeKeys, FakeQuotas, a_fake_desk, a_key, bearer
from tests.api.loopback import served
from tests.builders import a_gate, an_edge, forwarded_by_a_replica, idle, some_settings
from tests.virtual_time import run_virtual, virtual

HI = {"prompt": "hi", "max_tokens": 20}
STREAM = {**HI, "stream": True}
DONE = {"object": "chat.completion", "choices": []}
TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
LAST = b"data: [DONE]\n\n"
LIMITED = {TEAM: a_key(requests_per_minute=10, tokens_per_minute=1000)}


def counting(answer: Any, *, prompt_tokens: int = 7, made: int = 5) -> Any:
    """An engine that reports what it did, as the guard does."""

    async def answering(payload: dict[str, Any], send: Any) -> None:
        generation = GENERATION.get()
        assert generation is not None
        generation.prompt_tokens = prompt_tokens
        generation.sequences[0] = SequenceFacts(tokens=made)
        generation.on_prompt(prompt_tokens)
        await answer(payload, send)

    return answering


def a_limited_edge(answer: Any, quotas: FakeQuotas, **options: Any) -> TierEdge:
    edge = an_edge(FakeEngine(answer), **options)
    edge.access = a_fake_desk(FakeKeys(LIMITED), quotas)
    return edge


def spent(quotas: FakeQuotas) -> list[tuple[int, int, int] | None]:
    return [
        None if usage is None else (usage.requests, usage.prompt_tokens, usage.answer_tokens)
        for usage in quotas.settled
    ]


async def ask(edge: TierEdge, payload: object = HI, path: str = "", **options: Any) -> Call:
    return await call(edge, path, payload, headers=bearer(TEAM), **options)


def mounted(edge: TierEdge) -> ASGIApp:
    """Below the tier's prefix, as Serve mounts it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await edge({**scope, "root_path": "/api/chat"}, receive, send)

    return app


# --- reserved


@virtual
async def test_the_prompt_at_most_and_all_new_tokens_are_reserved_before_the_engine_runs() -> None:
    quotas = FakeQuotas()
    edge = a_limited_edge(answers(DONE), quotas)
    await ask(edge, {**HI, "n": 1})
    (grant,) = quotas.grants
    assert (grant.need.requests, grant.need.concurrent) == (1, 1)
    body = len(json.dumps(edge_asked(edge)))
    assert grant.need.tokens == body + TEMPLATE_TOKENS + 20


def edge_asked(edge: TierEdge) -> object:
    assert isinstance(edge.engine_app, FakeEngine)
    return edge.engine_app.asked[-1]


def test_no_more_is_reserved_than_the_context_holds() -> None:
    most = most_tokens(100_000, sequences=2, max_new_tokens=100, context_tokens=4096)
    assert most == 2 * 4096
    assert most_tokens(100, sequences=2, max_new_tokens=50, context_tokens=None) == 328


@virtual
async def test_of_the_only_prompt_what_it_is_shorter_comes_back_at_once() -> None:
    quotas = FakeQuotas()
    await ask(a_limited_edge(counting(answers(DONE), prompt_tokens=7), quotas))
    assert quotas.grants[0].lowered == [27]


@virtual
async def test_of_several_prompts_none_is_taken_for_the_last() -> None:
    quotas = FakeQuotas()
    edge = a_limited_edge(counting(answers({"choices": []})), quotas, gate=a_gate(slots=4))
    await ask(edge, {"prompt": ["a", "b"], "max_tokens": 5}, "/v1/completions")
    assert quotas.grants[0].lowered == []


@pytest.mark.parametrize(
    ("refusal", "code", "retry", "words"),
    [
        (
            Refusal("requests_per_minute", 60, 2.2),
            "rate_limit_exceeded",
            "3",
            "60 requests a minute",
        ),
        (Refusal("tokens_per_minute", 20_000, 0.1), "rate_limit_exceeded", "1", "20,000 tokens a"),
        (Refusal("max_concurrent", 4, 1.0), "rate_limit_exceeded", "1", "4 requests at once"),
        (Refusal("tokens_per_day", 500, 3600.0), "insufficient_quota", "3600", "500 tokens a day"),
        (Refusal("tokens_per_minute", 100, None), "rate_limit_exceeded", None, "`max_tokens`"),
    ],
)
def test_over_its_quota_the_refusal_names_the_limit_and_the_time_to_retry(
    refusal: Refusal, code: str, retry: str | None, words: str
) -> None:
    quotas = FakeQuotas(refusal)
    edge = a_limited_edge(answers(DONE), quotas)
    made = run_virtual(ask(edge))
    assert (made.status, made.error["code"]) == (429, code)
    assert made.headers.get("retry-after") == retry
    assert words in made.error["message"]
    # The SDKs heed a Retry-After of a minute at most, and would retry at once instead.
    in_vain = retry is None or int(retry) > 60
    assert (made.headers.get("x-should-retry") == "false") is in_vain
    assert [usage for _, usage in quotas.counted] == [Usage(refused=1)]
    assert idle(edge.gate)


@virtual
async def test_while_the_ledger_is_lost_what_no_lease_covers_is_refused() -> None:
    made = await ask(a_limited_edge(answers(DONE), FakeQuotas(lost=True)))
    assert (made.status, made.error["code"]) == (503, "ledger_unavailable")
    assert made.headers["retry-after"] == "2"


@virtual
async def test_a_key_without_limits_reserves_nothing_and_is_counted() -> None:
    quotas = FakeQuotas()
    edge = an_edge(FakeEngine(counting(answers(DONE))))
    edge.access = a_fake_desk(FakeKeys(), quotas)
    made = await ask(edge)
    assert quotas.grants == []
    assert not [name for name in made.headers if "ratelimit" in name]
    ((labels, usage),) = quotas.counted
    assert (labels.key, labels.tier, labels.model) == ("team", Tier.CHAT, "org/model")
    assert (usage.requests, usage.prompt_tokens, usage.answer_tokens) == (1, 7, 5)


# --- settled


@virtual
async def test_what_was_used_is_settled_when_the_answer_has_ended() -> None:
    quotas = FakeQuotas()
    await ask(a_limited_edge(counting(answers(DONE)), quotas))
    await ask(a_limited_edge(counting(streams(TOKEN, LAST)), quotas), STREAM)
    assert spent(quotas) == [(1, 7, 5), (1, 7, 5)]


@virtual
async def test_thoughts_count_as_reasoning_and_seconds_by_the_slots_that_were_held() -> None:
    quotas = FakeQuotas()
    gate = a_gate(slots=4)
    edge = a_limited_edge(counting(answers(DONE, after_s=2.0)), quotas, gate=gate)
    await ask(edge)
    ((_, usage),) = quotas.counted
    assert usage.gpu_s == pytest.approx(0.5)


@virtual
async def test_a_client_that_disconnects_pays_what_was_generated() -> None:
    quotas = FakeQuotas()
    edge = a_limited_edge(counting(streams(*[TOKEN] * 9, every_s=1.0)), quotas)
    made = Call(edge, "", STREAM, headers=bearer(TEAM))
    await asyncio.sleep(2.5)
    made.leave()
    await made.done
    assert spent(quotas) == [(1, 7, 5)]


@virtual
async def test_a_client_that_leaves_the_queue_pays_nothing() -> None:
    quotas = FakeQuotas()
    edge = a_limited_edge(counting(answers(DONE, after_s=9.0)), quotas)
    first = Call(edge, "", HI, headers=bearer(TEAM))
    await asyncio.sleep(0.1)
    second = Call(edge, "", HI, headers=bearer(TEAM))
    await asyncio.sleep(0.1)
    second.leave()
    await asyncio.gather(first.done, second.done)
    assert spent(quotas) == [(1, 7, 5), None]


@virtual
async def test_what_the_gate_refuses_comes_back_and_counts_as_refused() -> None:
    quotas = FakeQuotas()
    gate = a_gate(slots=1, max_queued_requests=0)
    edge = a_limited_edge(counting(answers(DONE, after_s=1.0)), quotas, gate=gate)
    first = Call(edge, "", HI, headers=bearer(TEAM))
    await asyncio.sleep(0.1)
    assert (await ask(edge)).status == 429
    await first.done
    assert spent(quotas) == [(1, 7, 5), None]
    assert [usage.refused for _, usage in quotas.counted] == [1, 0]


@virtual
async def test_what_the_engine_refuses_costs_nothing_and_a_bug_what_was_done() -> None:
    quotas = FakeQuotas()
    await ask(a_limited_edge(answers({"error": {"message": "no"}}, status=400), quotas))
    edge = a_limited_edge(counting(breaks(RuntimeError("bug"))), quotas)
    with pytest.raises(RuntimeError, match="bug"):
        await ask(edge)
    assert spent(quotas) == [None, (1, 7, 5)]


@virtual
async def test_an_invalid_request_reserves_nothing() -> None:
    quotas = FakeQuotas()
    edge = a_limited_edge(answers(DONE), quotas)
    assert (await ask(edge, {"prompt": "hi", "max_tokens": -1})).status == 400
    assert (quotas.grants, quotas.counted) == ([], [])


@virtual
async def test_an_answer_from_the_cache_costs_a_request_and_no_tokens() -> None:
    quotas = FakeQuotas()
    settings = some_settings()
    cached = settings.answer_cache.model_copy(update={"enabled": True})
    settings = settings.model_copy(update={"answer_cache": cached})
    edge = a_limited_edge(counting(answers(DONE)), quotas, settings=settings)
    for _ in range(2):
        await ask(edge, {**HI, "temperature": 0})
    assert quotas.grants[1].need == Amounts(requests=1, concurrent=1)
    assert spent(quotas) == [(1, 7, 5), (1, 0, 0)]


@virtual
async def test_the_first_byte_waits_until_the_ledger_knows_and_the_engine_does_not() -> None:
    for payload, answer in ((HI, answers(DONE)), (STREAM, streams(TOKEN, LAST))):
        quotas = FakeQuotas()
        quotas.acknowledging.clear()
        engine = FakeEngine(counting(answer))
        edge = a_limited_edge(engine.answering, quotas)
        edge.engine_app = engine
        edge = an_edge(engine)
        edge.access = a_fake_desk(FakeKeys(LIMITED), quotas)
        made = Call(edge, "", payload, headers=bearer(TEAM))
        await asyncio.sleep(1.0)
        assert (len(engine.asked), made.messages) == (1, [])
        quotas.acknowledging.set()
        await made.done
        assert made.status == 200


# --- headers


@virtual
async def test_every_answer_of_a_key_with_limits_says_what_is_left() -> None:
    edge = a_limited_edge(counting(answers(DONE)), FakeQuotas())
    for made in (await ask(edge), await ask(edge, {"max_tokens": -1}), await ask(edge, None, "/x")):
        if made.status == 404:
            continue
        assert made.headers["x-ratelimit-limit-requests"] == "10"
        assert made.headers["x-ratelimit-remaining-requests"] == "9"
        assert made.headers["x-ratelimit-reset-requests"] == "6s"
        assert made.headers["x-ratelimit-limit-tokens"] == "1000"
        assert made.headers["x-ratelimit-remaining-tokens"] == "900"
        assert made.headers["x-ratelimit-reset-tokens"] == "20ms"
        assert "anthropic-ratelimit-tokens-limit" not in made.headers


@virtual
async def test_anthropics_clients_have_their_headers_too() -> None:
    edge = a_limited_edge(counting(answers({"content": []})), FakeQuotas())
    message = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    made = await ask(edge, message, "/v1/messages")
    assert made.headers["anthropic-ratelimit-tokens-limit"] == "1000"
    assert made.headers["anthropic-ratelimit-tokens-remaining"] == "900"
    assert made.headers["anthropic-ratelimit-requests-reset"].endswith("Z")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0ms"), (0.02, "20ms"), (1.5, "1.5s"), (6, "6s"), (360, "6m0s"), (3723.9, "1h2m3s")],
)
def test_durations_are_written_as_openai_does(seconds: float, written: str) -> None:
    assert duration(seconds).decode() == written


# --- at another replica


@virtual
async def test_a_replica_says_the_usage_to_the_one_that_has_forwarded_the_request() -> None:
    edge = an_edge(FakeEngine(counting(answers(DONE))))
    made = await call(edge, "", HI, headers=forwarded_by_a_replica())
    usage = read_usage(made.headers[USAGE_HEADER.decode()].encode())
    assert usage is not None
    assert (usage.requests, usage.prompt_tokens, usage.answer_tokens) == (1, 7, 5)

    edge = an_edge(FakeEngine(counting(streams(TOKEN, LAST))))
    made = await call(edge, "", STREAM, headers=forwarded_by_a_replica())
    assert made.text.startswith((TOKEN + LAST).decode() + ": tierserve-usage 1,7,0,5,")
    own = await call(edge, "", STREAM)
    assert own.text == (TOKEN + LAST).decode()


@pytest.mark.parametrize("payload", [HI, STREAM], ids=["whole", "stream"])
async def test_what_ran_at_a_peer_is_settled_as_the_peer_says_and_the_client_never_sees_it(
    payload: dict[str, Any],
) -> None:
    filled, quotas = asyncio.Event(), FakeQuotas()
    peer = an_edge(
        FakeEngine(counting(answers(DONE) if payload is HI else streams(TOKEN, LAST))),
        gate=a_gate(clock_s=time.monotonic),
        clock_s=time.monotonic,
    )
    async with served(mounted(peer)) as url:
        edge = a_limited_edge(
            counting(answers_on(filled, DONE)),
            quotas,
            gate=a_gate(clock_s=time.monotonic),
            settings=some_settings(relay_after_s=0.01),
            peer_urls=[url],
            clock_s=time.monotonic,
        )
        filling = Call(edge, "", HI, headers=bearer(TEAM))
        await asyncio.sleep(0.05)
        made = await ask(edge, payload)
        filled.set()
        await filling.done
        await edge.forwarder.close()
    assert made.status == 200
    assert "tierserve-usage" not in made.text + str(made.headers)
    assert spent(quotas) == [(1, 7, 5), (1, 7, 5)]


@given(st.lists(st.integers(1, 60)), st.sampled_from([b"", b": heartbeat\n\n", TOKEN]))
async def test_the_usage_is_taken_off_however_a_stream_is_cut(cuts: list[int], more: bytes) -> None:
    text = TOKEN + more + LAST
    whole, spending = text + b": tierserve-usage 1,2,3,4,0.5\n\n", Spending()

    async def pieces() -> AsyncIterator[bytes]:
        left = whole
        for cut in [*cuts, len(whole)]:
            if left[:cut]:
                yield left[:cut]
            left = left[cut:]

    assert b"".join([chunk async for chunk in without_usage(pieces(), spending)]) == text
    assert spending.used() == Usage(1, 0, 2, 3, 4, 0.5)


@given(
    st.builds(
        Usage,
        requests=st.integers(0, 9),
        prompt_tokens=st.integers(0, 10**9),
        reasoning_tokens=st.integers(0, 10**9),
        answer_tokens=st.integers(0, 10**9),
    )
)
def test_usage_is_read_as_it_was_written(usage: Usage) -> None:
    assert read_usage(written_usage(usage)) == usage


@given(st.binary(max_size=40))
def test_what_is_no_usage_is_read_as_none_or_as_numbers(written: bytes) -> None:
    usage = read_usage(written)
    assert usage is None or usage.gpu_s == usage.gpu_s
