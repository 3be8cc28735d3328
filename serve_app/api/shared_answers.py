"""One answer for all who ask the same at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _Turn:
    """One time that the question is put, for all who have come before it begins."""

    task: "asyncio.Task[Any]"
    begun: bool = False


@dataclass(slots=True)
class SharedAnswers:
    """Each question is put at most every `every_s`, and never twice at once. Nobody gets an answer
    that was asked for before he came. The questions are few."""

    every_s: float = 0.25
    clock_s: Callable[[], float] = time.monotonic
    _turns: dict[Hashable, _Turn] = field(default_factory=dict[Hashable, _Turn])
    _begun_s: dict[Hashable, float] = field(default_factory=dict[Hashable, float])

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer of `ask`, shared with all who wait for it. One that disconnects does not
        end it for the others."""
        turn = self._turns.get(question)
        if turn is None or turn.begun:
            before = None if turn is None else turn.task
            task = asyncio.ensure_future(self._put(question, ask, before))
            turn = self._turns[question] = _Turn(task)
        return await asyncio.shield(turn.task)

    async def _put(
        self,
        question: Hashable,
        ask: Callable[[], Awaitable[Any]],
        before: "asyncio.Task[Any] | None",
    ) -> Any:
        if before is not None:
            await asyncio.wait({before})
        next_s = self._begun_s.get(question, float("-inf")) + self.every_s
        if (early_s := next_s - self.clock_s()) > 0:
            await asyncio.sleep(early_s)
        self._turns[question].begun = True
        self._begun_s[question] = self.clock_s()
        return await ask()
