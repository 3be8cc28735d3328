"""One answer for all who ask at about the same time: what a question to all replicas costs is then
no matter of how many ask it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class SharedAnswers:
    """Answers by question, each at most `max_age_s` old. The questions are few."""

    max_age_s: float = 0.5
    clock_s: Callable[[], float] = time.monotonic
    _asked: dict[Hashable, tuple[float, asyncio.Task[Any]]] = field(default_factory=dict)

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer of `ask`, or that of somebody who asked the same just before. Who leaves does
        not end it for the others."""
        now_s = self.clock_s()
        asked = self._asked.get(question)
        if asked is None or (asked[1].done() and now_s - asked[0] >= self.max_age_s):
            asked = now_s, asyncio.ensure_future(_awaited(ask))
            self._asked[question] = asked
        return await asyncio.shield(asked[1])


async def _awaited(ask: Callable[[], Awaitable[Any]]) -> Any:
    return await ask()
