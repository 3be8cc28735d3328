"""In which order the results of a request's engine calls are handled: one at a time, and those of
the past first, as they came then.

A legacy completion has a call for each of its prompts, and their results come as they come. What a
client has had of a stream is a number of events, so on a replay they must be the same ones.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

# All of the past is at hand, and is handled as fast as a CPU can: a step that is not asked for
# within this time is none of the request's.
LONGEST_WAIT_S = 60.0


class ReplayOrderError(RuntimeError):
    """The request does not ask for the steps that are said to be its past."""


@dataclass(slots=True)
class ReplayOrder:
    """`past_steps`: so many come before all that is new."""

    past_steps: int
    _handled: int = 0
    _busy: bool = False
    _waiting: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])

    @asynccontextmanager
    async def handling(self, position: int | None = None) -> AsyncIterator[None]:
        """Wait until it is the turn of this step of the past, or of a new one (None); in this
        block no other result is handled. Raises ReplayOrderError where its turn does not come."""
        if not self._is_turn_of(position):
            await self._turn_of(position)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if position is not None:
                self._handled += 1
            self._wake()

    def _is_turn_of(self, position: int | None) -> bool:
        due = self.past_steps if position is None else position
        return not self._busy and self._handled == due

    async def _turn_of(self, position: int | None) -> None:
        try:
            async with asyncio.timeout(
                None if self._handled == self.past_steps else LONGEST_WAIT_S
            ):
                while not self._is_turn_of(position):
                    waiting = asyncio.get_running_loop().create_future()
                    self._waiting.append(waiting)
                    await waiting
        except TimeoutError:
            raise ReplayOrderError(
                f"step {self._handled} of {self.past_steps} in the journal was not asked for"
            ) from None

    def _wake(self) -> None:
        while self._waiting:
            waiting = self._waiting.pop()
            if not waiting.done():
                waiting.set_result(None)
