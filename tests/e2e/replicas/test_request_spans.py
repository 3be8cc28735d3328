"""One request's spans, from the unified /v1 to vLLM's engine, also over two replicas."""

import asyncio
import secrets
from typing import Any

from serve_app.core.tiers import Tier
from tests.e2e.client import ask, client_session, work
from tests.e2e.replicas.test_relay import LARGE, SLOTS
from tests.e2e.site import Site, wait_for
from tests.otlp_receiver import Receiver

SECRET = "quagga-marmalade"
# Spans are sent once a second, and vLLM's every five seconds.
SENT_WITHIN_S = 60.0
TIER, ENGINE = "tierserve: chat chat", "vllm: llm_request"


def a_trace() -> tuple[str, dict[str, str]]:
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{'c' * 16}-01", "tracestate": "vendor=1"}


def wait_for_engines(collector: Receiver, trace_id: str) -> None:
    def whole() -> bool:
        names = {name for _, name in collector.tree(trace_id)}
        return {TIER, ENGINE} <= names and collector.tree(trace_id)[0][0] == 0

    wait_for(whole, "the spans of edge and engine", SENT_WITHIN_S)


def test_a_request_to_v1_is_one_tree_from_the_proxy_to_the_engine(
    site: Site, collector: Receiver
) -> None:
    trace_id, headers = a_trace()
    body: dict[str, Any] = {
        "model": "chat",
        "messages": [{"role": "user", "content": SECRET}],
        "max_tokens": 8,
        "ignore_eos": True,
        "user": SECRET,
    }
    answer = site.post("/v1/chat/completions", body, authorization=f"Bearer {SECRET}", **headers)
    assert answer.status_code == 200
    wait_for_engines(collector, trace_id)
    wait_for(lambda: len(collector.tree(trace_id)) == 5, "all spans", SENT_WITHIN_S)
    assert collector.tree(trace_id) == [
        (0, "tierserve: POST /v1/chat/completions"),
        (1, TIER),
        (2, "tierserve: admission"),
        (2, "tierserve: engine"),
        (3, ENGINE),
    ]
    web, tier, _, _, engine = collector.of_trace(trace_id)
    assert web.parent_id == "c" * 16
    assert tier.attributes["tierserve.request_id"] == answer.headers["x-request-id"]
    assert tier.attributes["gen_ai.request.max_tokens"] == 8
    assert tier.resource["tierserve.tier"] == "chat"
    assert tier.resource["service.instance.id"]
    assert engine.attributes["gen_ai.usage.completion_tokens"] == 8
    used = answer.json()["usage"]
    assert engine.attributes["gen_ai.usage.prompt_tokens"] == used["prompt_tokens"]
    assert web.start_ns <= tier.start_ns <= engine.start_ns <= tier.end_ns <= web.end_ns
    assert not any(SECRET.encode() in received for received in collector.bodies)


async def test_a_forwarded_request_is_one_tree_over_both_replicas(
    site: Site, collector: Receiver
) -> None:
    url, asked = f"{site.url}/api/chat", [a_trace() for _ in range(SLOTS)]
    async with client_session() as session:
        large = asyncio.create_task(ask(session, url, work("all", 1500, stream=True, **LARGE)))
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["running"] == SLOTS, "one replica is full"
        )

        async def status(trace_id: str, headers: dict[str, str]) -> int:
            body = work(trace_id, 20, stream=False)
            async with session.post(url, json=body, headers=headers) as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*(status(*each) for each in asked))
        large.cancel()
    assert set(statuses) == {200}
    forwarded = [
        (0, TIER),
        (1, "tierserve: admission"),
        (1, "tierserve: queue"),
        (1, "tierserve: forward"),
        (2, TIER),
        (3, "tierserve: admission"),
        (3, "tierserve: engine"),
        (4, ENGINE),
    ]
    await asyncio.to_thread(
        wait_for,
        lambda: any(sorted(collector.tree(each)) == sorted(forwarded) for each, _ in asked),
        "the tree of a forwarded request",
        SENT_WITHIN_S,
    )
    trace_id = next(each for each, _ in asked if len(collector.tree(each)) == len(forwarded))
    tiers = [span for span in collector.of_trace(trace_id) if span.name == "chat chat"]
    assert len({span.resource["service.instance.id"] for span in tiers}) == 2
