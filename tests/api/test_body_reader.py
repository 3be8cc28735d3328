"""Bodies that are large, slow, or many at once."""

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message

from serve_app.api.request_body import MEMORY_BYTES, SMALL_BYTES, BodyReader
from serve_app.errors import ClientDisconnectedError, RequestError
from tests.virtual_time import now_s, virtual

LIMIT = 4 * 1024 * 1024


class Sender:
    """A client that sends these chunks, each after a time, and then nothing more."""

    def __init__(self, *chunks: bytes, every_s: float = 0.0, ends: bool = True) -> None:
        self._chunks, self._every_s, self._ends = list(chunks), every_s, ends

    async def receive(self) -> Message:
        await asyncio.sleep(self._every_s)
        if not self._chunks:
            await asyncio.Event().wait()
        body = self._chunks.pop(0)
        return {
            "type": "http.request",
            "body": body,
            "more_body": bool(self._chunks or not self._ends),
        }


async def read(
    reader: BodyReader, sender: Sender, headers: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    scope = {"headers": list(headers)}
    return await reader.read(scope, sender.receive, limit_bytes=LIMIT, timeout_s=30.0)


async def refusal(
    reader: BodyReader, sender: Sender, headers: Sequence[tuple[bytes, bytes]] = ()
) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await read(reader, sender, headers)
    return caught.value


@virtual
async def test_a_body_in_pieces_is_put_together_and_nothing_is_held_afterwards() -> None:
    reader = BodyReader()
    assert await read(reader, Sender(b"a", b"b" * 100_000, b"c")) == b"a" + b"b" * 100_000 + b"c"
    assert reader.held_bytes == 0


@virtual
async def test_a_body_above_the_limit_is_refused_by_its_word_or_by_its_bytes() -> None:
    reader = BodyReader()
    declared = await refusal(reader, Sender(), [(b"content-length", b"9" * 5000)])
    sent = await refusal(reader, Sender(*[b"x" * 1_000_000] * 5))
    assert [error.status for error in (declared, sent)] == [413, 413]
    assert reader.held_bytes == 0


@virtual
async def test_a_body_that_does_not_arrive_in_time_is_given_up() -> None:
    for sender in (Sender(b"half", ends=False), Sender(*[b"x"] * 100, every_s=1.0)):
        began_s = now_s()
        error = await refusal(BodyReader(), sender)
        assert (error.status, error.code) == (408, "request_timeout")
        assert now_s() - began_s == 30.0


@virtual
async def test_half_sent_large_bodies_leave_memory_to_small_ones() -> None:
    reader = BodyReader()
    halves = [
        asyncio.ensure_future(refusal(reader, Sender(b"x" * (LIMIT - 1), ends=False)))
        for _ in range(MEMORY_BYTES // LIMIT + 10)
    ]
    await asyncio.sleep(1)
    assert reader.held_bytes <= MEMORY_BYTES
    assert [half.result().status for half in halves if half.done()] == [503] * 10
    small = Sender(b"x" * (SMALL_BYTES - 1), b"y")
    assert len(await read(reader, small)) == SMALL_BYTES
    assert {error.status for error in await asyncio.gather(*halves)} == {503, 408}
    assert reader.held_bytes == 0


@virtual
async def test_a_client_that_closes_its_connection_is_disconnected() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnectedError):
        await BodyReader().read({"headers": []}, receive, limit_bytes=LIMIT, timeout_s=30.0)


@virtual
async def test_a_compressed_body_is_refused_before_it_is_read() -> None:
    for coding in (b"gzip", b"x-gzip", b"deflate", b"br", b"zstd", b"a, b"):
        error = await refusal(BodyReader(), Sender(b"x"), [(b"Content-Encoding", coding)])
        assert (error.status, error.code) == (415, "unsupported_content_encoding")
        assert "without the header Content-Encoding" in error.message


@virtual
async def test_a_body_that_says_it_is_plain_is_read() -> None:
    for plain in (b"identity", b" Identity ", b""):
        assert await read(BodyReader(), Sender(b"{}"), [(b"content-encoding", plain)]) == b"{}"
