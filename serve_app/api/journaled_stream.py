"""A stream that may go on at another replica: what its edge adds to it, and takes off it there.

Each chunk of the engine's carries the steps that led to it. Where the engine or the replica behind
it is lost, the stream ends with a comment that says so in place of an error. Where it goes on,
vLLM's application writes it anew from its first event, and those that its client has are dropped.
"""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from starlette.types import Message, Send

from serve_app.api.engine_errors import ERROR_STARTS
from serve_app.api.replay_wire import (
    EVENT_END,
    JOURNALED,
    LOST_COMMENT,
    REPLAYED_HEADER,
    STEPS_COMMENT,
    Resumption,
)
from serve_app.core.replay.journal import Journal, JournalError, read
from serve_app.errors import RequestError, invalid

if TYPE_CHECKING:
    from serve_app.api.response import ResponseForm, TierResponse
    from serve_app.api.rules import PreparedRequest

_SSE = b"text/event-stream"
# Errors after which the stream goes on elsewhere, and what its comment says of them.
_LOST = {"engine_stopped": b"engine", "replica_lost": b"forwarded", "replica_stopping": b"stopping"}
# OpenAI's events and those of Responses; the quotes inside a JSON string are escaped.
_CREATED = re.compile(rb'("created(?:_at)?":)\d+(?:\.\d+)?')


def journal_of(
    resumption: Resumption | None, written: bytes, prepared: "PreparedRequest"
) -> Journal | None:
    """The journal of a request that is followed; `written` is what other replicas have done for it.
    None for a whole answer, which is asked for anew. Raises RequestError 400 where a request is to
    go on and cannot."""
    if resumption is None:
        return Journal() if prepared.streaming else None
    if not prepared.streaming:
        raise _no_journal("this request has none")
    try:
        return Journal(read(written.decode("ascii")))
    except (JournalError, UnicodeDecodeError) as error:
        raise _no_journal("it cannot be read") from error


def followed_form(form: "ResponseForm", resumption: Resumption | None) -> "ResponseForm":
    """The form of a response whose stream carries its journal, and says how often it has moved."""
    if resumption is None:
        return replace(form, headers=(*form.headers, JOURNALED), followed=True)
    replayed = (REPLAYED_HEADER, b"%d" % resumption.replays)
    headers = (*form.headers, JOURNALED, replayed)
    return replace(form, headers=headers, followed=True, replays=resumption.replays)


def with_steps(journal: Journal) -> Callable[[bytes], bytes]:
    """Of a chunk, the same behind the steps that were taken since the last one."""

    def transform(body: bytes) -> bytes:
        steps = journal.take_unsent()
        return STEPS_COMMENT + steps.encode() + EVENT_END + body if steps else body

    return transform


def lost_event(error: RequestError) -> bytes | None:
    """The end of a stream that goes on elsewhere; None where `error` ends it for good."""
    reason = _LOST.get(error.code or "")
    return None if reason is None else LOST_COMMENT + reason + EVENT_END


async def whole_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same in pieces that end where an event does; the begin of one that never ends is
    dropped."""
    kept = b""
    async for chunk in chunks:
        kept += chunk
        end = kept.rfind(EVENT_END) + len(EVENT_END)
        if end >= len(EVENT_END):
            yield kept[:end]
            kept = kept[end:]


def without_comments(body: bytes) -> bytes:
    """Whole events without what only replicas and the gateway say to each other."""
    parts = body.split(EVENT_END)
    return b"".join(part + EVENT_END for part in parts if part and not part.startswith(b":"))


@dataclass(slots=True, eq=False)
class EngineEvents:
    """The `send` of vLLM's application for a stream that is followed.

    (1) The error of a dead engine, and what comes behind it, is dropped: `lost` says so then.
    (2) Of a stream that goes on, the events are dropped that its client has. With the first of them
        the response begins, so that whoever asked knows that it was taken.
    (3) The time at which it was created is that of its begin.
    (4) Its id is the client's, also where the engine knows it by another one: that would be yet
        another one elsewhere.
    """

    send_on: Send
    response: "TierResponse"
    resumption: Resumption | None = None
    on_mismatch: Callable[[str], None] = lambda _: None
    # The request's id in the engine, and the client's, where those differ.
    renamed: tuple[bytes, bytes] | None = None
    lost: bool = False
    _left: int = 0
    _streaming: bool = False
    _opened: bool = False
    _mismatched: bool = False

    def __post_init__(self) -> None:
        self._left = 0 if self.resumption is None else self.resumption.events

    async def __call__(self, message: Message) -> None:
        response, resumption = self.response, self.resumption
        body: bytes = message.get("body", b"")
        is_error = body.startswith(ERROR_STARTS)
        if self.lost or (is_error and response.started and response.form.engine_dead()):  # (1)
            self.lost = True
            return
        if message["type"] == "http.response.start":
            self._streaming = any(value.startswith(_SSE) for _, value in message["headers"])
            await self.send_on(message)
            return
        if not self._streaming or (resumption is None and self.renamed is None):
            await self.send_on(message)
            return
        ends = not message.get("more_body", False)
        if self._left and not is_error:  # (2)
            dropped = bool(body)
            body = self._without_sent(body)
            if ends:
                self._count_left("did not come again")
            if dropped and not body and not ends and self._opened:
                return
            self._opened = True
        if resumption is not None and resumption.created_s is not None:  # (3)
            body = _CREATED.sub(b"\\g<1>%d" % resumption.created_s, body)
        if self.renamed is not None:  # (4)
            body = body.replace(*self.renamed)
        await self.send_on({**message, "body": body})

    def goes_on(self) -> None:
        """The engine takes its first step beyond what other replicas have done."""
        self._count_left("had not come again when the engine went on")

    def _count_left(self, how: str) -> None:
        if self._left and not self._mismatched:
            self._mismatched = True
            self.on_mismatch(f"{self._left} of its client's events {how}")

    def _without_sent(self, body: bytes) -> bytes:
        """vLLM's chunks are whole events."""
        at = 0
        while self._left and at < len(body):
            self._left -= not body.startswith(b":", at)
            at = body.find(EVENT_END, at) + len(EVENT_END)
            if at < len(EVENT_END):
                return b""
        return body[at:]


def _no_journal(why: str) -> RequestError:
    return invalid(
        f"What other replicas have done for this request is behind its body, and {why}.",
        code="invalid_journal",
    )
