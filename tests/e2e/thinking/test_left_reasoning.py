"""A client that goes away in its reasoning leaves nothing of it to those that run beside it."""

import asyncio
from typing import Any

import aiohttp

from serve_app.config.engine import DEFAULT_TRANSITION
from tests.e2e.client import Reply, ask, client_session
from tests.e2e.site import Site
from tests.e2e.thinking.conftest import chunks_of, joined
from tests.engine.grammars import micro_tokenizer

BESIDE = 3
BUDGET_TOKENS, TEXT_TOKENS = 200, 500
POLL_S = 0.005
PROBLEM = "Tom has {} apples. He buys 15 more and gives away 7. How many apples does he have?"
TEXT = {"model": "chat", "stream": True, "temperature": 0, "ignore_eos": True}


async def test_its_budget_closes_no_other_text(site: Site) -> None:
    """A text of `/v1/completions` has no budget, and takes the row of the one that has gone in
    vLLM's batch, where it is behind it."""
    async with client_session() as session:
        left = [begin(session, f"{site.url}/v1/chat/completions", chat(n)) for n in range(BESIDE)]
        await written(left, 1)
        texts = [begin(session, f"{site.url}/v1/completions", text(n)) for n in range(BESIDE)]
        await written(texts, 1)
        for task, _ in left:
            task.cancel()
        await asyncio.gather(*(task for task, _ in texts))
    assert not any(joined(chunks_of(reply.text), "content") for _, reply in left)
    for _, reply in texts:
        assert reply.served
        assert reply.completion_tokens == TEXT_TOKENS
        pieces = (choice["text"] for chunk in chunks_of(reply.text) for choice in chunk["choices"])
        assert DEFAULT_TRANSITION.strip() not in "".join(pieces)


def chat(number: int) -> dict[str, Any]:
    """One whose reasoning only its budget ends."""
    messages = [{"role": "user", "content": PROBLEM.format(number)}]
    return {**TEXT, **no_end(), "messages": messages, "thinking_token_budget": BUDGET_TOKENS}


def text(number: int) -> dict[str, Any]:
    """One that never writes the mark, with which all counting would be over."""
    usage = {"stream_options": {"include_usage": True}}
    prompt = PROBLEM.format(number)
    return {**TEXT, **no_end(), "prompt": prompt, "max_tokens": TEXT_TOKENS, **usage}


def no_end() -> dict[str, Any]:
    return {"logit_bias": {micro_tokenizer().convert_tokens_to_ids("</think>"): -100}}


def begin(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any]
) -> tuple[asyncio.Task[Reply], Reply]:
    reply = Reply()
    return asyncio.create_task(ask(session, url, body, reply)), reply


async def written(asked: list[tuple[asyncio.Task[Reply], Reply]], chunks: int) -> None:
    while any(reply.chunks < chunks for _, reply in asked):
        await asyncio.sleep(POLL_S)
        assert not any(task.done() for task, _ in asked)
