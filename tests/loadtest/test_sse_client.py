"""The client counts token events in raw bytes, however the bytes arrive."""

import asyncio
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest.sse_client import (
    EventCounter,
    StreamFailure,
    StreamTimes,
    run_closed_loop,
    run_open_loop,
)

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"sea"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = ROLE + TOKEN + TOKEN + USAGE + DONE


@pytest.mark.parametrize("block_bytes", [1, 2, 7, 64, len(STREAM)])
def test_events_are_counted_wherever_the_network_cuts_them(block_bytes: int) -> None:
    counter = EventCounter()
    blocks = [STREAM[i : i + block_bytes] for i in range(0, len(STREAM), block_bytes)]

    assert sum(counter.feed(block) for block in blocks) == 3
    assert counter.done
    assert counter.completion_tokens == 2


def test_heartbeat_comments_are_no_tokens() -> None:
    assert EventCounter().feed(b": waiting, 3 ahead\n\n" + TOKEN) == 1


def test_an_answer_that_speaks_of_events_is_not_taken_for_one() -> None:
    text = b'data: {"choices":[{"delta":{"content":"data: [DONE] \\"choices\\":[]\\n\\n"}}]}\n\n'
    counter = EventCounter()

    assert counter.feed(text) == 1
    assert not counter.done
    assert not counter.usage_event


def test_an_error_event_fails_the_run() -> None:
    with pytest.raises(StreamFailure, match="engine died"):
        EventCounter().feed(b'data: {"error":{"message":"engine died"}}\n\n')


def test_gaps_are_between_events_and_ttft_is_to_the_first() -> None:
    times = StreamTimes(sent_s=10.0, event_s=[10.5, 10.75, 11.25])

    assert times.ttft_s == 0.5
    assert times.itl_s == [0.25, 0.5]


async def test_all_bodies_are_sent_at_the_chosen_concurrency() -> None:
    at_once, most = 0, 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (ROLE, TOKEN, TOKEN, USAGE, DONE):
            await response.write(part)
            await asyncio.sleep(0.001)
        at_once -= 1
        return response

    async with _serving(answer) as server:
        streams = await run_closed_loop(str(server.make_url("/")), [b"{}"] * 9, concurrency=3)

    assert most == 3
    assert [stream.output_tokens for stream in streams] == [2] * 9
    assert all(len(stream.event_s) == 3 and stream.ttft_s > 0 for stream in streams)


async def test_streams_come_back_in_the_order_of_their_bodies() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        first_ends_last = int(await request.text())
        for part in (*[TOKEN] * first_ends_last, USAGE, DONE):
            await response.write(part)
            await asyncio.sleep(0.001)
        return response

    async with _serving(answer) as server:
        streams = await run_closed_loop(
            str(server.make_url("/")), [b"30", b"2", b"9"], concurrency=3
        )

    assert [len(stream.event_s) for stream in streams] == [30, 2, 9]


async def test_an_open_loop_waits_for_no_answer_and_counts_from_when_a_request_was_due() -> None:
    all_are_here = asyncio.Event()
    arrived = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        if arrived == 3:
            all_are_here.set()
        await all_are_here.wait()
        return web.Response(body=STREAM, content_type="text/event-stream")

    async with _serving(answer) as server:
        begun_s = time.perf_counter()
        streams = await run_open_loop(
            str(server.make_url("/")), [b"{}"] * 3, due_s=[0.0, 0.01, 0.02]
        )

    first, second, third = sorted(stream.sent_s for stream in streams)
    assert first >= begun_s
    assert second - first == pytest.approx(0.01)
    assert third - first == pytest.approx(0.02)
    assert [stream.output_tokens for stream in streams] == [2, 2, 2]


async def test_a_refusal_fails_the_run() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=429, text="full")

    async with _serving(answer) as server:
        with pytest.raises(ExceptionGroup) as failure:
            await run_closed_loop(str(server.make_url("/")), [b"{}"], concurrency=1)

    assert failure.group_contains(StreamFailure, match="HTTP 429.*full")


async def test_a_stream_that_is_cut_fails_the_run() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=ROLE + TOKEN, content_type="text/event-stream")

    async with _serving(answer) as server:
        with pytest.raises(ExceptionGroup) as failure:
            await run_closed_loop(str(server.make_url("/")), [b"{}"], concurrency=1)

    assert failure.group_contains(StreamFailure, match="without usage")


def _serving(answer: object) -> TestServer:
    app = web.Application()
    app.router.add_post("/", answer)  # pyright: ignore[reportArgumentType]
    return TestServer(app)
