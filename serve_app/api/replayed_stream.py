"""A stream of events on its way through the gateway: what the client gets of it, and what it takes
to go on with it elsewhere.

The replica's comments (`replay_wire.py`) are taken out. The journal ends with the steps of the last
event that was forwarded, and only whole events are, so that both always fit each other.
"""

import re
from dataclasses import dataclass, field

from serve_app.api.replay_wire import (
    EVENT_END,
    LOST_COMMENT,
    OFFER_COMMENT,
    STEPS_COMMENT,
    Resumption,
)

_COMMENT = b":"
_STEPS_BYTES = len(STEPS_COMMENT)
_CREATED = re.compile(rb'"created(?:_at)?":(\d+)')
# Between the steps of two comments, as between two steps of one.
_BETWEEN_STEPS = b";"
# With these a stream has ended, whatever becomes of its connection.
_LAST_EVENTS = (
    b"data: [DONE]",
    b"event: message_stop\n",
    b"event: response.completed\n",
    b"event: response.incomplete\n",
    b"event: response.failed\n",
    b"event: error\n",
)


@dataclass(slots=True)
class ReplayedStream:
    """`events` is how many the client has; `lost` is the replica's reason why it has no more of
    them; `offered`: the replica would have another one go on with it, and `feed` stops there until
    it is called again. `journaled`: the steps of all events are there."""

    journaled: bool = False
    events: int = 0
    lost: str | None = None
    offered: bool = False
    journal: bytearray = field(default_factory=bytearray)
    created_s: int | None = None
    _rest: bytes = b""
    _steps: list[bytes] = field(default_factory=list[bytes])
    _newest: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """What the client gets of `data` and of what was left of earlier ones: whole events, and
        comments that are not the replica's to the gateway."""
        self.offered = False
        *blocks, self._rest = (self._rest + data).split(EVENT_END)
        forwarded: list[bytes] = []
        for at, block in enumerate(blocks):
            if not block.startswith(_COMMENT):
                self._take_event(block)
                forwarded.append(block)
            elif block.startswith(STEPS_COMMENT):
                if self.journaled:
                    self._steps.append(block[_STEPS_BYTES:])
            elif block.startswith(OFFER_COMMENT):
                self.offered = True
                self._rest = EVENT_END.join([*blocks[at + 1 :], self._rest])
                break
            elif block.startswith(LOST_COMMENT):
                self.lost = block[len(LOST_COMMENT) :].decode("latin-1")
                break
            else:
                forwarded.append(block)
        if not forwarded:
            return b""
        forwarded.append(b"")
        return EVENT_END.join(forwarded)

    def restart(self) -> None:
        """Another replica goes on, behind the last event that the client has."""
        self._rest, self._newest = b"", b""
        self._steps.clear()
        self.lost, self.offered = None, False

    def drop_journal(self) -> None:
        """It is not to go on elsewhere any more."""
        self.journaled = False
        self.journal = bytearray()
        self._steps.clear()

    def take_rest(self) -> bytes:
        """What was left of an event whose end has not come."""
        rest, self._rest = self._rest, b""
        return rest

    def resumption(self, replays: int, *, only_with_room: bool) -> Resumption:
        return Resumption(len(self.journal), self.events, replays, self.created_s, only_with_room)

    @property
    def finished(self) -> bool:
        """Whether the client has the last event."""
        return self._newest.startswith(_LAST_EVENTS)

    def _take_event(self, event: bytes) -> None:
        for steps in self._steps:
            if self.journal:
                self.journal += _BETWEEN_STEPS
            self.journal += steps
        self._steps.clear()
        if not self.events and (created := _CREATED.search(event)) is not None:
            self.created_s = int(created[1])
        self.events += 1
        self._newest = event
