"""In which order the results of a request's engine calls are handled: one at a time, and those of
the past first, as they came then.

A legacy completion has a call for each of its prompts, and their results come as they come. What a
client has had of a stream is a number of events, so on a replay they must be the same ones.
"""

import asyncio
from dataclasses import dataclass, field
from types import TracebackType

# All of the past is at hand, and is handled as fast as a CPU can: a step that is not asked for
# within this time is none of the request's.
LONGEST_WAIT_S = 60.0


class ReplayOrderError(RuntimeError):
    """The request does not ask for the steps that are said to be its past."""


@dataclass(slots=True)
class ReplayOrder:
    """`past_steps`: so many come before all that is new. Whose turn it is handles its result in a
    block of the order, in which it is nobody else's."""

    past_steps: int
    _handled: int = 0
    _busy: bool = False
    _waiting: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])

    async def turn(self, position: int | None = None) -> None:
        """Wait until it is the turn of this step of the past, or of a new one (None). Enter the
        block at once then. Raises ReplayOrderError where its turn does not come."""
        if self._is_turn_of(position):
            return
        limit_s = None if self._handled == self.past_steps else LONGEST_WAIT_S
        try:
            async with asyncio.timeout(limit_s):
                while not self._is_turn_of(position):
                    waiting = asyncio.get_running_loop().create_future()
                    self._waiting.append(waiting)
                    await waiting
        except TimeoutError:
            raise ReplayOrderError(
                f"step {self._handled} of {self.past_steps} in the journal was not asked for"
            ) from None

    def __enter__(self) -> None:
        self._busy = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._busy = False
        if self._handled < self.past_steps:
            self._handled += 1
        while self._waiting:
            waiting = self._waiting.pop()
            if not waiting.done():
                waiting.set_result(None)

    def _is_turn_of(self, position: int | None) -> bool:
        due = self.past_steps if position is None else position
        return not self._busy and self._handled == due
