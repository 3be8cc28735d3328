"""The edge tells its gate how long prompts are, and when the engine has read them."""

import asyncio
from typing import Any

import pytest
from starlette.types import Send

from serve_app.api.edge import TierEdge
from serve_app.api.request_body import BYTES_PER_TOKEN, PromptEstimate
from serve_app.core.generation import GENERATION
from tests.api.asgi import Call, FakeEngine, answers
from tests.api.test_engine_room import assert_empty
from tests.builders import a_reading_gate, an_edge
from tests.virtual_time import virtual

DONE = {"object": "chat.completion", "choices": []}
READ_S, ANSWER_S = 2.0, 10.0


async def reads_and_answers(payload: dict[str, Any], send: Send) -> None:
    generation = GENERATION.get()
    assert generation is not None
    generation.on_prompt(2000)
    await asyncio.sleep(READ_S)
    generation.on_first_token()
    await answers(DONE, after_s=ANSWER_S)(payload, send)


def reading_edge() -> TierEdge:
    return an_edge(FakeEngine(reads_and_answers), gate=a_reading_gate())


@virtual
async def test_a_whole_answer_lets_the_next_prompt_in_once_its_own_is_read() -> None:
    edge = reading_edge()
    calls = [Call(edge, "", {"prompt": name}) for name in "ab"]
    await asyncio.sleep(0.1)
    # The second one was short by its body, and is let in; the third finds 4,000 tokens.
    calls.append(Call(edge, "", {"prompt": "c"}))
    await asyncio.sleep(READ_S / 2)
    assert (edge.gate.running_sequences, edge.gate.queued_requests) == (2, 1)
    await asyncio.sleep(READ_S)
    assert (edge.gate.running_sequences, edge.gate.queued_requests) == (3, 0)
    await asyncio.gather(*(one.done for one in calls))
    assert [one.status for one in calls] == [200, 200, 200]
    assert_empty(edge.gate)


@virtual
async def test_a_client_that_leaves_before_its_prompt_is_read_leaves_nothing_to_be_read() -> None:
    edge = reading_edge()
    leaving = Call(edge, "", {"prompt": "a"})
    await asyncio.sleep(READ_S / 2)
    leaving.leave()
    await asyncio.wait({leaving.done})
    assert_empty(edge.gate)


@virtual
async def test_a_tokens_bytes_are_learnt_from_what_the_engine_counts() -> None:
    edge = reading_edge()
    before = edge.reader.prompts.tokens(1000)
    await Call(edge, "", {"prompt": "a"}).done
    assert edge.reader.prompts.tokens(1000) > before


def test_before_anything_is_counted_a_usual_vocabulary_is_assumed() -> None:
    assert PromptEstimate().tokens(4000) == pytest.approx(4000 / BYTES_PER_TOKEN)


def test_the_estimate_converges_to_what_is_counted() -> None:
    estimate = PromptEstimate()
    for _ in range(300):
        estimate.observe(body_bytes=3000, tokens=1500)
    assert estimate.tokens(100) == pytest.approx(50, rel=0.02)
