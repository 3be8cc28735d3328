"""vLLM in this process, as a replica has it, and requests to it with a journal: what each event of
a stream needed of the engine, and the same request continued from any of its events."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Scope

from serve_app.api.engine_run import call_engine
from serve_app.core.generation import CloseReasoning, Generation
from serve_app.core.reasoning.answer_policy import PolicyPlan
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.core.reasoning.deadline import RunningDeadline
from serve_app.core.replay.journal import Journal, read
from serve_app.engine.interface import Engine
from tests.engine.stream_content import timeless

CHAT, LEGACY = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"


@contextmanager
def untimed(_: str) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Asked:
    """A request. `plan` is the edge's; None where the model is not to think of its own."""

    path: str
    body: Mapping[str, Any]
    plan: ThinkingPlan | None = None
    stop_repetition: bool = False
    request_id: str = "a-request"
    cache_salt: str | None = None
    close_reasoning: CloseReasoning | None = None
    time: RunningDeadline | None = None
    policy: PolicyPlan | None = None


@dataclass
class Stream:
    """A stream's events, and for each the journal of all that it and those before it needed.
    `new_at`: the events that were there when the engine's first new step was recorded."""

    generation: Generation
    status: int = 0
    events: list[str] = field(default_factory=list)
    journals: list[str] = field(default_factory=list)
    new_at: int | None = None

    @property
    def parsed(self) -> list[Any]:
        return [timeless(event) for event in self.events]


async def streamed(
    engine: Engine,
    asked: Asked,
    past: str | None = "",
    on_event: Callable[[Stream], None] = lambda _: None,
) -> Stream:
    """One stream to its end, as the edge has it made. `past` is another one's journal; None: it is
    to have none at all."""
    journal = None if past is None else Journal(read(past))
    generation = Generation(
        asked.plan,
        asked.stop_repetition,
        cache_salt=asked.cache_salt,
        journal=journal,
        close_reasoning=asked.close_reasoning,
        time=asked.time,
        policy=asked.policy,
    )
    stream = Stream(generation)
    written = past or ""
    body = json.dumps(asked.body).encode()

    if journal is not None:

        def on_step() -> None:
            if stream.new_at is None:
                stream.new_at = len(stream.events)

        journal.on_step = on_step

    async def send(message: Message) -> None:
        nonlocal written
        if message["type"] == "http.response.start":
            stream.status = message["status"]
            return
        if journal is not None and (unsent := journal.take_unsent()):
            written = f"{written};{unsent}" if written else unsent
        for event in message.get("body", b"").decode().split("\n\n"):
            if event:
                stream.events.append(event)
                stream.journals.append(written)
                on_event(stream)
        # As a socket does now and then.
        await asyncio.sleep(0)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", asked.request_id.encode()),
        ],
        "asgi": {"version": "3.0", "spec_version": "2.4"},
    }
    await call_engine(
        engine.app, scope, body=body, receive=receive, send=send, generation=generation
    )
    return stream
