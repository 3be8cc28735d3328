"""The fake engine's prefix cache: what was read once is not read again, as far as blocks go."""

import asyncio
from contextlib import suppress

from serve_app.core.scaling.step_time import StepModel
from serve_app.engine.fake.batch import FakeBatch
from serve_app.engine.fake.prefix_cache import BLOCK_TOKENS, FakePrefixCache, PromptBlocks
from serve_app.engine.interface import EngineLoad
from tests.virtual_time import now_s, virtual

TOKEN_CHARS = 4
PROMPT = "".join(f"{number:<8}" for number in range(500))


def blocks(prompt: str, salt: str | None = None) -> PromptBlocks:
    return PromptBlocks.of(prompt, len(prompt) // TOKEN_CHARS, TOKEN_CHARS, salt)


def test_a_longer_conversation_finds_what_the_shorter_one_left() -> None:
    cache = FakePrefixCache.of(10_000, enabled=True)
    cache.keep(blocks(PROMPT[:2000]))
    found = cache.found_tokens(blocks(PROMPT))
    assert 500 - BLOCK_TOKENS < found <= 500
    assert cache.found_tokens(blocks("x" + PROMPT)) == 0
    assert cache.found_tokens(blocks(PROMPT, salt="another caller")) == 0


def test_of_a_prompt_that_is_there_one_token_is_read() -> None:
    cache = FakePrefixCache.of(10_000, enabled=True)
    cache.keep(blocks(PROMPT[: 4 * TOKEN_CHARS * BLOCK_TOKENS]))
    assert cache.found_tokens(blocks(PROMPT[: 4 * TOKEN_CHARS * BLOCK_TOKENS])) == 63


def test_off_it_keeps_nothing_and_on_no_more_than_the_pool_holds() -> None:
    off, small = (FakePrefixCache.of(tokens, enabled=bool(tokens)) for tokens in (0, 160))
    for cache in (off, small):
        cache.keep(blocks(PROMPT))
    assert off.found_tokens(blocks(PROMPT)) == 0
    assert small.found_tokens(blocks(PROMPT)) == 160


@virtual
async def test_a_prompt_that_was_read_takes_a_step_and_no_more() -> None:
    load = EngineLoad()
    cache = FakePrefixCache.of(100_000, enabled=True)
    batch = FakeBatch(StepModel(10.0, 0.0, 1.0), 8, 100_000, load, prefix_cache=cache)
    stepping = asyncio.create_task(batch.run())

    async def first_token_s(prompt: str) -> float:
        began_s = now_s()
        read = blocks(prompt)
        with batch.reply(read.tokens, [1], blocks=read) as reply:
            async for _ in reply.parts():
                pass
        return now_s() - began_s

    tokens = len(PROMPT) // TOKEN_CHARS
    assert round(await first_token_s(PROMPT), 3) == 0.01 + tokens / 1e3
    assert await first_token_s(PROMPT) < 0.01 + BLOCK_TOKENS / 1e3
    assert load.prefix_queries == 2 * tokens
    assert tokens - BLOCK_TOKENS <= load.prefix_hits < tokens
    stepping.cancel()
    with suppress(asyncio.CancelledError):
        await stepping
