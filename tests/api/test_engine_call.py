"""A call of vLLM's application ends its work when it is cancelled, or its client leaves."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from serve_app.api.engine_run import call_engine


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


class WorkInATask:
    """Does its work as vLLM's `with_cancellation` does: in a task that only a disconnect ends."""

    def __init__(self) -> None:
        self.body = b""
        self.working = asyncio.Event()
        self.aborted = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.body = (await receive())["body"]
        work = asyncio.ensure_future(self._work())
        gone = asyncio.ensure_future(receive())
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        work.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def _work(self) -> None:
        self.working.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.aborted = True


async def test_a_cancelled_call_ends_its_work_and_sends_nothing_more() -> None:
    app, sent = WorkInATask(), []

    async def send(message: Message) -> None:
        sent.append(message)

    call = asyncio.ensure_future(call_engine(app, {}, body=b"{}", receive=never, send=send))
    await app.working.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert app.body == b"{}"
    assert app.aborted
    assert sent == []


async def test_everyone_who_listens_learns_that_the_client_disconnected() -> None:
    heard: list[Message] = []
    listening = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        listeners = [asyncio.ensure_future(receive()) for _ in range(2)]
        await asyncio.sleep(0)
        listening.set()
        heard.extend(await asyncio.gather(*listeners))

    async def send(message: Message) -> None:
        raise AssertionError(message)

    call = asyncio.ensure_future(call_engine(app, {}, body=b"", receive=never, send=send))
    await listening.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert heard == [{"type": "http.disconnect"}] * 2


async def test_a_client_that_leaves_ends_the_call_and_gets_nothing_more() -> None:
    app, sent = WorkInATask(), []

    async def leaves() -> Message:
        await app.working.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await call_engine(app, {}, body=b"{}", receive=leaves, send=send)
    assert app.aborted
    assert sent == []


async def test_a_stream_that_has_begun_is_ended_though_it_does_not_listen() -> None:
    sent: list[Message] = []
    streaming, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        streaming.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def leaves() -> Message:
        await streaming.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async with asyncio.timeout(20):
        await call_engine(app, {}, body=b"", receive=leaves, send=send)
    assert ended.is_set()
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_what_the_engine_answers_passes_through() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(await receive())
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def send(message: Message) -> None:
        seen.append(message)

    await call_engine(app, {}, body=b"x", receive=never, send=send)
    kinds = [message["type"] for message in seen]
    assert kinds == ["http.request", "http.response.start"]


async def test_an_error_of_the_engine_is_the_calls_own() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await call_engine(app, {}, body=b"", receive=never, send=never)  # pyright: ignore[reportArgumentType]
