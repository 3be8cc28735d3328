"""The request of a resumable stream of a tier's own route, as it is sent, and as it goes on: here
or at another replica, behind what its client has."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from starlette.types import Receive, Scope

from serve_app.api.answer_deadline import DEADLINE_FIELD, AnswerDeadline, asked_deadline_ms
from serve_app.api.client_connection import GivenBody
from serve_app.api.followed_send import FollowedSend
from serve_app.api.forwarding import Marks
from serve_app.api.replayed_stream import ReplayedStream
from serve_app.api.request_body import parse_object
from serve_app.api.routes import Endpoint


@dataclass(frozen=True, slots=True)
class AskedStream:
    """`body` gives the client's, once it has come; `arrived_s` is when it came to this replica.
    `quick_losses` counts the replicas that were lost soon after they began to run it. `offers`:
    where this one drains, another one is asked to take it."""

    scope: Scope
    receive: Receive
    body: Callable[[], bytes]
    endpoint: Endpoint
    marks: Marks
    arrived_s: float
    clock_s: Callable[[], float]
    begun: ReplayedStream | None = None
    quick_losses: int = 0
    offers: bool = True

    @property
    def deadline(self) -> AnswerDeadline | None:
        """It counts from the arrival at the first replica, wherever the stream goes on. Raises
        RequestError where the client's is none."""
        if self.marks.deadline is not None:
            return self.marks.deadline
        body = self.body()
        payload = parse_object(body) if DEADLINE_FIELD.encode() in body else {}
        if (asked_ms := asked_deadline_ms(payload, self.scope)) is None:
            return None
        return AnswerDeadline(asked_ms, self.arrived_s + asked_ms / 1e3, self.clock_s)

    def next_marks(self, followed: FollowedSend) -> Marks:
        """Of the request that goes on."""
        resumption = followed.stream.resumption(self.marks.replays + 1, only_with_room=False)
        return Marks(
            followed=True,
            resumption=resumption,
            journal_bytes=resumption.journal_bytes,
            replays=resumption.replays,
            deadline=self.deadline,
        )

    def again(self, followed: FollowedSend, *, offers: bool) -> "AskedStream":
        """The same request, to go on here behind what its client has."""
        stream, marks = followed.stream, self.next_marks(followed)
        received = self.body() + stream.journal
        stream.take_rest()
        stream.restart()
        return replace(
            self,
            scope=with_length(self.scope, len(received)),
            receive=GivenBody(received),
            marks=marks,
            begun=stream,
            offers=offers,
        )


def with_length(scope: Scope, size_bytes: int) -> Scope:
    """The scope of a request whose body is so large."""
    others = (each for each in scope["headers"] if each[0].lower() != b"content-length")
    return {**scope, "headers": [*others, (b"content-length", b"%d" % size_bytes)]}
