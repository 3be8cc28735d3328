"""A refusal that is found after vLLM has begun its reply is a status all the same."""

import asyncio
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.engine.grammar.checked_start import begin_reply, checking_starts, refuse_start
from serve_app.errors import RequestError, invalid

START = {"type": "http.response.start", "status": 200, "headers": []}
REFUSED = invalid("No answer can satisfy it.", param="response_format")


def chunk(text: str) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}


async def sent_by(app: ASGIApp, sent: list[Message] | None = None) -> list[Message]:
    sent = [] if sent is None else sent

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    await checking_starts(app)({"type": "http"}, receive, send)
    return sent


async def test_what_was_begun_is_held_until_it_is_released() -> None:
    seen: list[int] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        seen.append(len(sent))
        await begin_reply()
        seen.append(len(sent))
        await send(chunk("a"))
        seen.append(len(sent))

    assert await sent_by(app, sent) == [START, chunk("a")]
    assert seen == [0, 1, 2]


async def test_a_reply_that_needs_no_release_is_sent_at_its_end() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(chunk("a"))

    assert await sent_by(app) == [START, chunk("a")]


async def test_a_refusal_is_raised_and_nothing_of_the_reply_is_sent() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        try:
            refuse_start(REFUSED)
        except asyncio.CancelledError:
            # As vLLM's handlers of whole answers do.
            await send(chunk("Client disconnected"))

    sent: list[Message] = []
    with pytest.raises(RequestError) as raised:
        await sent_by(app, sent)
    assert raised.value is REFUSED
    assert sent == []


async def test_a_refusal_that_ends_the_handler_is_raised_as_what_it_is() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def handler() -> None:
            await send(START)
            refuse_start(REFUSED)

        await asyncio.create_task(handler())

    with pytest.raises(RequestError):
        await sent_by(app)


async def test_what_the_application_has_answered_is_sent_before_it_raises() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "status": 500})
        raise KeyError("x")

    sent: list[Message] = []
    with pytest.raises(KeyError):
        await sent_by(app, sent)
    assert [message["status"] for message in sent] == [500]


async def test_a_client_that_leaves_is_no_refusal() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    task = asyncio.ensure_future(sent_by(app))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_where_no_reply_is_held_a_refusal_is_the_callers_to_raise() -> None:
    refuse_start(REFUSED)
    await begin_reply()
    left: list[asyncio.Task[Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def later() -> str:
            await asyncio.sleep(0.01)
            refuse_start(REFUSED)
            return "not ended"

        left.append(asyncio.create_task(later()))

    await sent_by(app)
    assert await left[0] == "not ended"
