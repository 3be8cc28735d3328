"""What an answer policy takes of a tier and of a key's quota, and what its client is sent, in
virtual time."""

import asyncio
import json
from typing import Any

from serve_app.api.edge import TierEdge
from serve_app.config.answers import AnswersConfig
from serve_app.core.generation import GENERATION, SequenceFacts
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from serve_app.core.reasoning.vote import Verdict
from tests.api.asgi import Call, FakeEngine, answers, call, sse_data, streams
from tests.api.fake_keys import TEAM, FakeKeys, FakeQuotas, a_fake_desk, a_key, bearer
from tests.builders import a_gate, an_edge, count, idle, some_settings
from tests.virtual_time import virtual

HI = {"prompt": "hi", "max_tokens": 20}
STREAM = {**HI, "stream": True}
LAST_CHUNK = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
WHOLE = {"choices": [{"index": 0, "message": {"content": "x"}}], "usage": USAGE}
LAST = b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def voting(answer: Any) -> Any:
    """An engine that has voted on three samples, as the guard does."""

    async def answering(payload: dict[str, Any], send: Any) -> None:
        assert "answer_policy" not in payload
        generation = GENERATION.get()
        assert generation is not None
        assert generation.policy is not None
        generation.prompt_tokens = 7
        generation.on_prompt(7)
        generation.sequences[0] = SequenceFacts(tokens=5)
        generation.unseen += [SequenceFacts(tokens=4), SequenceFacts(tokens=2)]
        generation.verdict, generation.saved_tokens = Verdict(1, 2, 2), 18
        await answer(payload, send)

    return answering


def an_edge_with(answer: Any, *, slots: int = 8, **settings: Any) -> TierEdge:
    gate = a_gate(slots=slots, max_queued_requests=4, service_s=10.0)
    answered = AnswersConfig(policy=AnswerPolicy.VOTE, vote_samples=3)
    chosen = some_settings(**settings).model_copy(update={"answers": answered})
    return an_edge(FakeEngine(answer), gate=gate, settings=chosen)


@virtual
async def test_a_stream_has_heartbeats_until_its_vote_is_decided() -> None:
    edge = an_edge_with(voting(streams(event(LAST_CHUNK), LAST, every_s=5.0)), heartbeat_s=2.0)
    made = await call(edge, "", STREAM)
    assert [message["type"] for message in made.messages].count("http.response.start") == 1
    beats = [
        sent_s
        for sent_s, message in zip(made.sent_s, made.messages, strict=True)
        if message.get("body", b"") == b": deciding\n\n"
    ]
    assert beats == [2.0, 4.0]
    assert made.headers["content-type"].startswith("text/event-stream")
    assert sse_data(made.text)[-1] == "[DONE]"


@virtual
async def test_how_fast_a_decided_stream_is_sent_is_not_learnt() -> None:
    chunks = [event(LAST_CHUNK)] * 5
    edge = an_edge_with(voting(streams(*chunks, LAST, every_s=0.5)))
    await call(edge, "", STREAM)
    assert (edge.token_s, count(edge, "itl_seconds_count")) == (None, 0)
    edge = an_edge_with(streams(*chunks, LAST, every_s=0.5))
    await call(edge, "", {**STREAM, "answer_policy": "truncate"})
    assert edge.token_s == 0.5
    assert count(edge, "itl_seconds_count") > 0


@virtual
async def test_a_whole_answer_has_none() -> None:
    edge = an_edge_with(voting(answers(WHOLE, after_s=5.0)), heartbeat_s=2.0)
    made = await call(edge, "", HI)
    assert made.status == 200
    assert made.headers["content-type"] == "application/json"


@virtual
async def test_each_sample_takes_a_slot() -> None:
    edge = an_edge_with(voting(answers(WHOLE, after_s=5.0)), slots=4)
    first, second = Call(edge, "", HI), Call(edge, "", HI)
    plain = Call(edge, "", {**HI, "answer_policy": "truncate"})
    await asyncio.sleep(1.0)
    assert edge.gate.running_sequences == 3
    assert edge.gate.queued_requests == 2
    await asyncio.gather(first.done, second.done, plain.done)
    assert idle(edge.gate)


@virtual
async def test_a_pair_takes_two_slots_and_is_sent_as_it_comes() -> None:
    seen: list[Any] = []

    async def pairing(payload: dict[str, Any], send: Any) -> None:
        generation = GENERATION.get()
        assert generation is not None
        seen.append(generation.policy)
        await streams(event(LAST_CHUNK), LAST, every_s=5.0)(payload, send)

    edge = an_edge(FakeEngine(pairing), gate=a_gate(slots=3), thinks=True)
    asked = Call(edge, "", {**STREAM, "answer_policy": "pair:100"})
    await asyncio.sleep(1.0)
    assert edge.gate.running_sequences == 2
    await asked.done
    assert idle(edge.gate)
    assert seen == [PolicyPlan(AnswerPolicy.PAIR, 100, 24, samples=2)]


@virtual
async def test_the_response_says_what_was_voted_and_counts_all_samples() -> None:
    report = {
        "policy": "vote",
        "samples": 3,
        "finished": 2,
        "agreeing": 2,
        "agreement": 1.0,
        "saved_tokens": 18,
    }
    made = await call(an_edge_with(voting(answers(WHOLE))), "", HI)
    answer = json.loads(made.text)
    assert answer["tierserve"]["answer_policy"] == report
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 11, "total_tokens": 18}
    usage = {"choices": [], "usage": USAGE}
    edge = an_edge_with(voting(streams(event(LAST_CHUNK), event(usage), LAST)))
    made = await call(edge, "", STREAM)
    last, counted, _ = sse_data(made.text)
    assert json.loads(last)["tierserve"]["answer_policy"] == report
    assert json.loads(counted)["usage"] == answer["usage"]


@virtual
async def test_a_key_reserves_all_samples_and_is_charged_for_those_that_were_made() -> None:
    quotas = FakeQuotas()
    edge = an_edge_with(voting(answers(WHOLE)))
    edge.access = a_fake_desk(FakeKeys({TEAM: a_key(tokens_per_minute=1000)}), quotas)
    made = await call(edge, "", HI, headers=bearer(TEAM))
    assert made.status == 200
    (usage,) = quotas.settled
    assert usage is not None
    assert (usage.requests, usage.prompt_tokens, usage.answer_tokens) == (1, 7, 11)
    (grant,) = quotas.grants
    assert grant.need.tokens > 3 * 20
    assert grant.lowered == [7 + 3 * 20]


@virtual
async def test_a_request_may_name_another_policy_than_its_tiers() -> None:
    seen: list[Any] = []

    async def answering(payload: dict[str, Any], send: Any) -> None:
        generation = GENERATION.get()
        assert generation is not None
        seen.append(generation.policy)
        await answers(WHOLE)(payload, send)

    edge = an_edge(FakeEngine(answering), gate=a_gate(slots=4))
    for policy in ("truncate", "vote"):
        made = await call(edge, "", {**HI, "answer_policy": policy})
        assert made.status == 200
        assert str(seen[-1].policy) == policy
        assert json.loads(made.text)["tierserve"]["answer_policy"]["policy"] == policy
    plain = await call(edge, "", HI)
    assert seen[-1] is None
    assert "tierserve" not in json.loads(plain.text)
    refused = await call(edge, "", {**HI, "answer_policy": "vote", "n": 2})
    assert (refused.status, refused.error["param"]) == (400, "answer_policy")
