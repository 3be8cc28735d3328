"""A stream as the gateway follows it, cuts it anywhere, and has it go on; and an engine for it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Send

from serve_app.api.replay_wire import (
    JOURNAL_HEADER,
    LOST_COMMENT,
    OFFER_COMMENT,
    RESUME_HEADER,
    STEPS_COMMENT,
    Resumption,
    journal_mark,
)
from serve_app.core.generation import GENERATION, SequenceFacts
from serve_app.core.replay.journal import EngineStep, Journal
from tests.api.asgi import Call
from tests.builders import SECRET

ID = "followed-1"
STREAM: dict[str, Any] = {"prompt": "hi", "stream": True}
DONE = b"data: [DONE]\n\n"


def marked(request_id: str = ID) -> list[tuple[bytes, bytes]]:
    mark = journal_mark(SECRET.key, request_id).encode()
    return [(b"x-request-id", request_id.encode()), (JOURNAL_HEADER, mark)]


def resumed(
    payload: Mapping[str, Any], so_far: "Taken", *, replays: int = 1, only_with_room: bool = False
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The body and the headers with which the gateway asks for the rest."""
    journal = b";".join(so_far.steps)
    resumption = Resumption(
        len(journal), len(so_far.events), replays, so_far.created_s, only_with_room
    )
    mark = resumption.header(SECRET.key, ID).encode()
    body = json.dumps(payload).encode() + journal
    return body, [(b"x-request-id", ID.encode()), (RESUME_HEADER, mark)]


def going_on(
    app: ASGIApp, so_far: "Taken", payload: Mapping[str, Any] = STREAM, **how: Any
) -> Call:
    body, headers = resumed(payload, so_far, **how)
    return Call(app, body=body, headers=headers)


@dataclass
class Taken:
    """What the gateway has of a stream: the events that it forwarded, and the steps up to the last
    of them."""

    events: list[bytes] = field(default_factory=list)
    steps: list[bytes] = field(default_factory=list)
    lost: bytes | None = None
    offers: int = 0

    @property
    def created_s(self) -> int | None:
        for event in self.events:
            if b'"created":' in event:
                return json.loads(event.removeprefix(b"data: "))["created"]
        return None

    @classmethod
    def of(cls, text: bytes | str, most_events: int | None = None) -> "Taken":
        """As much as `text` has, or the part until so many events."""
        taken, coming = cls(), list[bytes]()
        whole = text.encode() if isinstance(text, str) else text
        assert whole.endswith(b"\n\n") or not whole
        for block in whole.split(b"\n\n")[:-1]:
            if block.startswith(STEPS_COMMENT):
                coming.append(block.removeprefix(STEPS_COMMENT))
            elif block.startswith(LOST_COMMENT):
                taken.lost = block.removeprefix(LOST_COMMENT)
            elif block == OFFER_COMMENT:
                taken.offers += 1
            elif not block.startswith(b":"):
                if most_events is not None and len(taken.events) == most_events:
                    break
                taken.events.append(block)
                taken.steps += coming
                coming = []
        return taken

    def then(self, later: "Taken") -> "Taken":
        return Taken(self.events + later.events, self.steps + later.steps, later.lost)


@dataclass
class SteppingEngine:
    """Answers with `steps`, each with the events that it leads to, after a first event; from its
    first step on again where there is a past. `pause_s` is what a step takes that is no past;
    `together`: all events of a step come in one chunk."""

    steps: Sequence[Sequence[str]]
    pause_s: float = 0.0
    # Where in the steps to wait for ever.
    hangs_at: int | None = None
    together: bool = False
    runs: int = 0
    dead: bool = False
    journals: list[Journal | None] = field(default_factory=list)

    async def __call__(self, payload: dict[str, Any], send: Send) -> None:
        generation = GENERATION.get()
        assert generation is not None
        journal = generation.journal
        self.journals.append(journal)
        self.runs += 1
        generation.prompt_tokens = 10
        facts = generation.sequences[0] = SequenceFacts()
        past = () if journal is None else journal.past
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
            }
        )
        first = True
        for number, texts in enumerate(self.steps):
            if number >= len(past):
                if number == self.hangs_at:
                    await asyncio.Event().wait()
                await asyncio.sleep(self.pause_s)
                if journal is not None:
                    journal.record(EngineStep(0, 0, (number, number)))
            else:
                assert past[number] == EngineStep(0, 0, (number, number))
            facts.tokens += 2
            events = [self.event(text) for text in ([""] if first else []) + list(texts)]
            for chunk in [b"".join(events)] if self.together else events:
                await _send(send, chunk)
            first = False
        ended = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await _send(send, self.event_of(ended))
        await _send(send, DONE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def event(self, text: str) -> bytes:
        return self.event_of({"index": 0, "delta": {"content": text}})

    def event_of(self, choice: dict[str, Any]) -> bytes:
        said = {"id": ID, "created": 1000 + self.runs, "choices": [choice]}
        return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
