"""Asks every replica of a tier one question, and takes what comes in time.

Serve's own call for it gives nothing where one replica is late; what each of them answers is taken
here as it comes, and what it said before stands until then.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray import serve
from ray.exceptions import ActorDiedError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.api.status import Kept, KeptAnswers
from serve_app.serving.ray_internals import replica_references

Answers = Mapping[str, Awaitable[Any]]


@dataclass(slots=True)
class Broadcast:
    """Puts a question to all replicas that run of the ingress of an application, as a tier is one:
    the call of one of their methods."""

    application: str
    method: str
    _handle: DeploymentHandle | None = None

    async def __call__(self) -> Answers:
        """What each replica is going to answer, by its actor's id. Raises RayServeException where
        it is not deployed or has no replica."""
        if self._handle is None:
            self._handle = await asyncio.to_thread(serve.get_app_handle, self.application)
        return await replica_references(self._handle, self.method)


@dataclass(slots=True)
class ReplicaAnswers:
    """The answers to the question that `put` puts. `timeout_s` is how long it waits for them,
    `keep_s` how long a replica that says nothing is believed to be as it was."""

    put: Callable[[], Awaitable[Answers]]
    timeout_s: float
    keep_s: float
    clock_s: Callable[[], float] = time.monotonic
    _kept: KeptAnswers[Any] = field(init=False)
    # Of this question and of earlier ones; a late answer is newer than the one that is kept.
    _coming: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])

    def __post_init__(self) -> None:
        self._kept = KeptAnswers(self.keep_s, self.clock_s)

    async def ask(self) -> list[Kept[Any]]:
        """Of each replica what it answers now, or what it said last."""
        asked_s = self.clock_s()
        try:
            async with asyncio.timeout(self.timeout_s):
                answers = await self.put()
                self._kept.keep_only(answers)
                if answers:
                    await asyncio.wait({self._take_later(*each) for each in answers.items()})
        except RayServeException:
            # Not deployed, or without replicas.
            self._kept.keep_only(())
        except (RayError, TimeoutError):
            pass  # what is kept stands
        return self._kept.since(asked_s)

    def _take_later(self, replica: str, answer: Awaitable[Any]) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._take(replica, answer))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)
        return task

    async def _take(self, replica: str, answer: Awaitable[Any]) -> None:
        try:
            async with asyncio.timeout(self.keep_s):
                self._kept.take(replica, await answer)
        except ActorDiedError:
            self._kept.forget(replica)
        except (RayError, TimeoutError):
            pass  # it could not answer this time
