"""The end of all running requests at once, as at the end of a drain."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from serve_app.api.messages import ClientStalled
from serve_app.errors import RequestError

_STOPPING = "The replica is being stopped and its time to drain is over. Please retry."


@dataclass(slots=True)
class Deadlines:
    """Of each running request one, which never comes unless they are ended."""

    _all: set[asyncio.Timeout] = field(default_factory=set)
    _stalled: set[asyncio.Timeout] = field(default_factory=set)

    @asynccontextmanager
    async def until_ended(self) -> AsyncIterator[asyncio.Timeout]:
        """Raises RequestError 503 in the block when the requests are ended, and ClientStalled when
        `stall` has ended this one."""
        deadline = asyncio.timeout(None)
        self._all.add(deadline)
        try:
            async with deadline:
                yield deadline
        except TimeoutError as error:
            if not deadline.expired():
                raise
            if deadline in self._stalled:
                raise ClientStalled from error
            raise RequestError(503, _STOPPING, code="replica_stopping", retry_after_s=1) from error
        finally:
            self._all.discard(deadline)
            self._stalled.discard(deadline)

    def stall(self, deadline: asyncio.Timeout) -> None:
        """End the request of this deadline, whose client takes nothing."""
        self._stalled.add(deadline)
        deadline.reschedule(asyncio.get_running_loop().time())

    def end(self) -> int:
        """End all; their number."""
        deadlines = list(self._all)
        for deadline in deadlines:
            deadline.reschedule(asyncio.get_running_loop().time())
        return len(deadlines)
