"""The request of a resumable stream as it goes on."""

import json
from typing import Any

import pytest
from starlette.types import Message

from serve_app.api.asked_stream import AskedStream
from serve_app.api.followed_send import FollowedSend
from serve_app.api.forwarding import UNMARKED
from serve_app.api.replay_memory import Kept, ReplayMemory
from serve_app.api.routes import CHAT_COMPLETIONS


async def nothing(message: Message | None = None) -> None: ...


async def received() -> Message:
    raise AssertionError


@pytest.mark.parametrize(
    ("payload", "headers", "due_s"),
    [
        ({"deadline_ms": 60_000}, [], 70.0),
        ({}, [(b"x-deadline-ms", b"60000")], 70.0),
        ({"messages": "deadline_ms"}, [], None),
        ({}, [], None),
    ],
)
def test_a_deadline_counts_from_the_first_arrival_however_often_the_stream_goes_on(
    payload: dict[str, Any], headers: list[tuple[bytes, bytes]], due_s: float | None
) -> None:
    times_s = [10.0]
    body = json.dumps(payload).encode()
    asked = AskedStream(
        {"type": "http", "headers": headers},
        received,
        lambda: body,
        CHAT_COMPLETIONS,
        UNMARKED,
        times_s[-1],
        lambda: times_s[-1],
    )
    for now_s in (30.0, 50.0):
        times_s.append(now_s)
        kept = Kept(ReplayMemory(1000))
        followed = FollowedSend(nothing, kept, lambda: len(body), CHAT_COMPLETIONS, nothing)
        asked = asked.again(followed, offers=True)
        deadline = asked.marks.deadline
        assert (None if deadline is None else deadline.due_s) == due_s
        assert deadline is None or deadline.left_s == 70.0 - now_s
    assert asked.marks.replays == 2
