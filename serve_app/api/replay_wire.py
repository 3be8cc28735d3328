"""How `/v1` and a tier's edge talk of a stream that may have to go on at another replica.

The gateway marks a generating request with `JOURNAL_HEADER`. The edge that takes it says so by
the same header on its response, and puts comments into the stream: the steps that the engine took
for the events behind them, and what becomes of the stream where that is not its end. The gateway
keeps the steps, and no comment of these reaches a client. To continue, it sends the request again
with `RESUME_HEADER`, and the steps behind its body.

Marks are keyed hashes (`ClusterSecret`): what a client writes into these headers is taken off.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

JOURNAL_HEADER = b"x-tierserve-journal"
RESUME_HEADER = b"x-tierserve-resume"
MOVED_HEADER = b"x-tierserve-moved"
REPLAYED_HEADER = b"x-tierserve-replayed"
# Each stands in front of the event that it belongs to, in one chunk with it, and ends as an event
# does. Steps as `core/replay/journal.py` writes them.
STEPS_COMMENT = b":j "
# The engine or the replica has no more of it; behind it a reason of one word.
LOST_COMMENT = b":lost "
# The replica drains: it goes on, but another one that has room may have it.
OFFER_COMMENT = b":offer"
EVENT_END = b"\n\n"
JOURNALED = (JOURNAL_HEADER, b"1")


def journal_mark(key: bytes, request_id: str) -> str:
    """The value of JOURNAL_HEADER on a request."""
    return keyed(key, f"journal {request_id}")


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a request goes on. `journal_bytes` of its body, the last ones, are the journal;
    `events` is how many events its client has; `replays` counts the times that it was continued,
    this one included; `created_s` is what its first event gave as its time, None where it has had
    none. `only_with_room`: not where it would have to wait."""

    journal_bytes: int
    events: int
    replays: int
    created_s: int | None = None
    only_with_room: bool = False

    def header(self, key: bytes, request_id: str) -> str:
        """The value of RESUME_HEADER."""
        said = self._said()
        return signed(key, f"resume {request_id}", said)

    @classmethod
    def from_header(cls, value: bytes, key: bytes, request_id: str) -> Self | None:
        """None where nobody who has the key has written it."""
        said = said_by(value, key, f"resume {request_id}")
        if said is None:
            return None
        size, events, replays, created, room = said.split(" ")
        return cls(
            int(size),
            int(events),
            int(replays),
            int(created) if created != "-" else None,
            room == "1",
        )

    def _said(self) -> str:
        created = "-" if self.created_s is None else str(self.created_s)
        numbers = f"{self.journal_bytes} {self.events} {self.replays}"
        return f"{numbers} {created} {int(self.only_with_room)}"


@dataclass(frozen=True, slots=True)
class MovedStream:
    """A resumable stream that another replica has had until now: `events_bytes` of the body, behind
    the journal, are the events that were sent or kept there. `quick_losses` counts the
    replicas that were lost soon after they began to run it."""

    stream_id: str
    events_bytes: int
    quick_losses: int = 0

    def header(self, key: bytes, request_id: str) -> str:
        """The value of MOVED_HEADER."""
        said = f"{self.stream_id} {self.events_bytes} {self.quick_losses}"
        return signed(key, f"moved {request_id}", said)

    @classmethod
    def from_header(cls, value: bytes, key: bytes, request_id: str) -> Self | None:
        """None where nobody who has the key has written it."""
        said = said_by(value, key, f"moved {request_id}")
        if said is None:
            return None
        stream_id, size, quick = said.split(" ")
        return cls(stream_id, int(size), int(quick))


def read_marks(
    headers: Iterable[tuple[bytes, bytes]], key: bytes, request_id: str
) -> tuple[bool, Resumption | None]:
    """Whether a request's stream is to carry its journal, and where it goes on, by those of its
    headers that somebody with the key has written."""
    journaled, resumption = False, None
    for name, value in headers:
        lower = name.lower()
        if lower == RESUME_HEADER:
            resumption = resumption or Resumption.from_header(value, key, request_id)
        elif lower == JOURNAL_HEADER:
            mark = journal_mark(key, request_id).encode()
            journaled = journaled or hmac.compare_digest(value, mark)
    return journaled or resumption is not None, resumption


def signed(key: bytes, about: str, said: str) -> str:
    """The value of a header that says something about a request, with its mark in front."""
    return f"{keyed(key, f'{about} {said}')} {said}"


def said_by(value: bytes, key: bytes, about: str) -> str | None:
    """What `signed` has written; None where nobody who has the key has."""
    mark, _, said = value.decode("latin-1").partition(" ")
    expected = keyed(key, f"{about} {said}")
    return said if hmac.compare_digest(mark.encode("latin-1"), expected.encode()) else None


def keyed(key: bytes, text: str) -> str:
    """The mark of a header that says `text`."""
    return hmac.new(key, text.encode("latin-1"), hashlib.sha256).hexdigest()
