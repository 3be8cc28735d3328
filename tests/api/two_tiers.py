"""Two tiers, of which one lends: edges in front of fake engines that answer once they are let."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.edge import TierEdge
from serve_app.api.lending import Lender
from serve_app.config.answers import SamplingConfig
from serve_app.core.tiers import Tier
from tests.api.asgi import Answering, Call, FakeEngine, answers_on
from tests.api.loopback import served
from tests.api.test_forwarding import until
from tests.builders import a_gate, an_edge, some_settings

DONE = {"choices": [], "model": "reasoning"}
CHATS = {"relay_after_s": 0.01, "system_prompt": "Be brief.", "max_new_tokens": 100}
REASONINGS = {
    "system_prompt": "Think.",
    "max_new_tokens": 2000,
    "sampling": SamplingConfig(temperature=0.6),
}


@dataclass
class Tiers:
    """Chat has one slot, reasoning four of which it lends two. Each answers once it is let."""

    chat: TierEdge
    chat_engine: FakeEngine
    free_chat: asyncio.Event
    reasoning: TierEdge
    reasoning_engine: FakeEngine
    free_reasoning: asyncio.Event

    async def fill_chat(self) -> Call:
        filling = Call(self.chat, payload={"prompt": "fills"})
        await until(lambda: self.chat_engine.running == 1)
        return filling

    async def borrow(self, **payload: Any) -> Call:
        """A request to the full chat tier that reasoning runs."""
        running = self.reasoning_engine.running
        borrowing = Call(self.chat, payload={"prompt": "hi", **payload})
        await until(lambda: self.reasoning_engine.running == running + 1)
        return borrowing

    async def end(self, *calls: Call) -> None:
        self.free_chat.set()
        self.free_reasoning.set()
        await asyncio.gather(*(made.done for made in calls))


@asynccontextmanager
async def two_tiers(
    *,
    lender: Answering | None = None,
    lend_share: float = 0.5,
    queued: int = 8,
    reasonings: dict[str, Any] = REASONINGS,
) -> AsyncIterator[Tiers]:
    """At the end nothing may be left at either gate."""
    free_chat, free_reasoning = asyncio.Event(), asyncio.Event()
    chat_engine = FakeEngine(answers_on(free_chat, {**DONE, "model": "chat"}))
    reasoning_engine = FakeEngine(lender or answers_on(free_reasoning, DONE))
    reasoning = an_edge(
        reasoning_engine,
        tier=Tier.REASONING,
        gate=a_gate(slots=4, lend_share=lend_share, clock_s=time.monotonic),
        settings=some_settings(**reasonings),
        clock_s=time.monotonic,
    )
    async with served(mounted(reasoning, "/api/reasoning")) as url:
        chat = an_edge(
            chat_engine,
            gate=a_gate(max_queued_requests=queued, clock_s=time.monotonic),
            settings=some_settings(**CHATS),
            lent_by=[Lender(Tier.REASONING, url, reasoning.reader.desk.key)],
            clock_s=time.monotonic,
        )
        try:
            yield Tiers(chat, chat_engine, free_chat, reasoning, reasoning_engine, free_reasoning)
        finally:
            await chat.forwarder.close()
        await until(lambda: not reasoning.gate.running_requests)
        assert reasoning.gate.borrowed_sequences == chat.forwarder.sequences_elsewhere == 0
        assert (chat.gate.running_requests, chat.gate.queued_requests) == (0, 0)


def mounted(edge: TierEdge, root_path: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await edge({**scope, "root_path": root_path}, receive, send)

    return app
