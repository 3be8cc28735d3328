"""Ids in events are of the request: the same ones where it is run again, and nobody else's."""

import asyncio
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from serve_app.core.generation import Generation
from serve_app.engine.event_ids import EVENT_IDS, with_event_ids
from tests.engine.fake_generation import asked_by_the_edge


async def made(request_id: str, *body: bytes, count: int = 3) -> list[bytes]:
    found: list[bytes] = []
    parts = list(body)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in body:
            await receive()
        ids = EVENT_IDS.get()
        if ids is not None:
            found.extend(ids.next() for _ in range(count))

    async def receive() -> Message:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(_: Message) -> None:
        pass

    headers = [(b"x-request-id", request_id.encode())] if request_id else []
    await with_event_ids(app)({"type": "http", "headers": headers}, receive, send)
    assert EVENT_IDS.get() is None
    return found


def test_a_request_that_is_run_again_has_the_same_ids_one_after_the_other() -> None:
    first = asyncio.run(made("a", b"{", b"}"))
    assert first == asyncio.run(made("a", b"{", b"}"))
    assert len(set(first)) == 3


def test_another_id_or_body_has_others() -> None:
    """A client may have one id for all turns of a conversation, in which ids must differ."""
    all_ids: list[Any] = []
    for request_id, body in (("a", b"{}"), ("b", b"{}"), ("a", b"[]")):
        all_ids += asyncio.run(made(request_id, body))
    assert len(set(all_ids)) == 9


def test_the_clients_id_counts_where_the_engine_knows_the_request_by_another_one() -> None:
    with asked_by_the_edge(Generation(request_id="a")):
        first = asyncio.run(made("a-1234", b"{}"))
    assert first == asyncio.run(made("a", b"{}"))


def test_without_an_id_they_are_left_to_vllm() -> None:
    assert asyncio.run(made("", b"{}")) == []
