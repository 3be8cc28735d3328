"""`GET /api/tiers/events`: the tiers' status each second, to all who follow it at once.

However many follow, the replicas are asked once a second, and each follower costs one write of the
same bytes. While nobody follows, nobody is asked.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from serve_app.api.history import Described, StatusHistory

PERIOD_S = 1.0
# Whoever follows asks anew after it, with a key that is still valid.
FOLLOWED_S = 60.0
# A proxy that collects a stream before it sends it on would show nothing.
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


@dataclass(slots=True)
class StatusFeed:
    """`describe` gives the entries of `/api/tiers`. `until_draining` returns when this process is
    to stop: the streams end then, so that it need not wait for them."""

    describe: Callable[[], Awaitable[Described]]
    until_draining: Callable[[], Awaitable[None]] | None = None
    history: StatusHistory = field(init=False)
    _followers: int = 0
    _draining: "asyncio.Future[None] | None" = None
    # What all who follow wait for.
    _next: "asyncio.Task[bytes] | None" = None
    _asked_s: float = float("-inf")
    _described: Described = ()
    _sampled_s: float = 0.0

    def __post_init__(self) -> None:
        self.history = StatusHistory(self._recent)

    async def answer(self, request: Request) -> Response:
        """A stream whose events have what `/api/tiers` answers, and new samples of the history."""
        return StreamingResponse(self.events(), headers=HEADERS, media_type="text/event-stream")

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events for `FOLLOWED_S`. One that is slow to take them misses some."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + FOLLOWED_S
        with self._following():
            while loop.time() < ends_s and not (self._draining and self._draining.done()):
                if self._next is None or self._next.done():
                    self._next = asyncio.create_task(self._event())
                yield await asyncio.shield(self._next)

    @contextmanager
    def _following(self) -> Iterator[None]:
        self._followers += 1
        if self._draining is None and self.until_draining is not None:
            self._draining = asyncio.ensure_future(self.until_draining())
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._end()

    def _end(self) -> None:
        for task in (self._draining, self._next):
            if task is not None:
                task.cancel()
        self._draining = self._next = None

    async def _event(self) -> bytes:
        await asyncio.sleep(self._asked_s + PERIOD_S - asyncio.get_running_loop().time())
        described = await self._now()
        samples = self.history.samples(self._sampled_s)[-1:]
        self._sampled_s = samples[-1].at_s if samples else self._sampled_s
        news = {"tiers": described, "samples": [sample.as_dict() for sample in samples]}
        return b"data: " + bytes(JSONResponse(news).body) + b"\n\n"

    async def _recent(self) -> Described:
        """The status, of a period ago at most."""
        recent = asyncio.get_running_loop().time() < self._asked_s + PERIOD_S
        return self._described if recent and self._described else await self._now()

    async def _now(self) -> Described:
        self._asked_s = asyncio.get_running_loop().time()
        self._described = await self.describe()
        return self._described
