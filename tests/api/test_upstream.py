"""Responses as the gateway's client reads them, wherever they are cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from serve_app.api.upstream import (
    MOST_UNTAKEN_BYTES,
    Address,
    ConnectError,
    Upstream,
    UpstreamError,
    UpstreamPool,
)
from tests.api.scripted_tier import Connection, Reply, ScriptedTier, framed, serving, whole

ID = [(b"x-request-id", b"r")]
WHOLE = whole(200, b"{}", b"x-twice: 1", b"X-Twice: 2")
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@asynccontextmanager
async def asked(*replies: Reply) -> AsyncIterator[tuple[UpstreamPool, Address, ScriptedTier]]:
    """`replies` in turn."""
    tier = ScriptedTier([lambda _, reply=reply: reply for reply in replies])
    async with serving(tier) as url:
        pool = UpstreamPool()
        yield pool, Address("127.0.0.1", int(url.rpartition(":")[2])), tier
        pool.close()


async def test_a_header_comes_as_often_as_it_was_sent_with_a_name_in_lower_case() -> None:
    async with asked(Reply(WHOLE)) as (pool, address, _):
        answer = await pool.post(address, "/x", ID, b"{}")
        assert [value for name, value in answer.headers if name == b"x-twice"] == [b"1", b"2"]
        assert (answer.status, await answer.whole(100)) == (200, b"{}")


async def test_what_precedes_the_answer_is_none() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    async with asked(Reply(early + WHOLE)) as (pool, address, _):
        answer = await pool.post(address, "/x", ID, b"{}")
        assert (answer.status, answer.header(b"link")) == (200, None)
        assert await answer.whole(100) == b"{}"


@pytest.mark.parametrize(
    ("data", "whole_body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nall of it", b"all of it"),
        (CHUNKED + framed(b"all ") + framed(b"of it") + b"0\r\n\r\n", b"all of it"),
        (CHUNKED + framed(b"all ") + framed(b"of it"), None),
        (CHUNKED + framed(b"all of it")[:-4], None),
        (WHOLE[:-1], None),
    ],
)
async def test_an_answer_is_whole_only_with_its_end(data: bytes, whole_body: bytes | None) -> None:
    async with asked(Reply(data, cut=True)) as (pool, address, _):
        answer = await pool.post(address, "/x", ID, b"{}")
        if whole_body is None:
            with pytest.raises(UpstreamError):
                await answer.whole(100)
        else:
            assert await answer.whole(100) == whole_body


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", b"no HTTP at all\r\n\r\n"])
async def test_a_connection_that_ends_before_the_head_has_no_answer(data: bytes) -> None:
    async with asked(Reply(data, cut=True)) as (pool, address, _):
        with pytest.raises(UpstreamError):
            await pool.post(address, "/x", ID, b"{}")


async def test_who_is_not_there_is_a_connection_error() -> None:
    async with asked(Reply(WHOLE)) as (pool, address, _):
        pass
    with pytest.raises(ConnectError):
        await pool.post(address, "/x", ID, b"{}")


async def test_a_connection_is_kept_for_the_next_request_only_when_all_was_read() -> None:
    async with asked(Reply(WHOLE), Reply(CHUNKED), Reply(WHOLE), Reply(WHOLE)) as scene:
        pool, address, tier = scene
        for _ in range(4):
            answer = await pool.post(address, "/x", ID, b"{}")
            if answer.header(b"content-length"):
                await answer.whole(100)
            answer.release()
        assert [each.connection for each in tier.asked] == [1, 1, 2, 2]


async def test_an_answer_that_says_so_ends_its_connection() -> None:
    closing = whole(200, b"{}", b"connection: close")
    async with asked(Reply(closing), Reply(WHOLE)) as (pool, address, tier):
        for _ in range(2):
            answer = await pool.post(address, "/x", ID, b"{}")
            await answer.whole(100)
            answer.release()
        assert [each.connection for each in tier.asked] == [1, 2]


async def test_what_nobody_takes_is_not_read_either() -> None:
    sent = 0

    async def flood(connection: Connection) -> None:
        nonlocal sent
        while sent < 64 * MOST_UNTAKEN_BYTES:
            await connection.writable.wait()
            connection.transport.write(framed(b"x" * 60_000))
            sent += 60_000
        connection.transport.write(b"0\r\n\r\n")

    async with asked(Reply(CHUNKED, then=flood)) as (pool, address, _):
        answer = await pool.post(address, "/x", ID, b"{}")
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 64 * MOST_UNTAKEN_BYTES
        assert await _length(answer) == sent


async def _length(answer: Upstream) -> int:
    size = 0
    while not answer.complete:
        if data := answer.take():
            size += len(data)
        else:
            await answer.more()
    return size + len(answer.take())
