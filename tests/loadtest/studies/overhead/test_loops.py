"""The loops of the overhead's client: order, concurrency, due times, and an error that ends all."""

import asyncio
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest.errors import MeasurementError
from loadtest.studies.overhead.measure import run_closed_loop, run_open_loop

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"sea"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = ROLE + TOKEN + TOKEN + USAGE + DONE
SSE = {"content-type": "text/event-stream"}


async def test_all_bodies_are_sent_at_the_chosen_concurrency() -> None:
    at_once, most = 0, 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        response = web.StreamResponse(headers=SSE)
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
    assert all(len(stream.token_s) == 2 and (stream.ttft_s or 0) > 0 for stream in streams)


async def test_streams_come_back_in_the_order_of_their_bodies() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=SSE)
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

    assert [len(stream.token_s) for stream in streams] == [30, 2, 9]


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

    first, second, third = sorted(stream.sent_s or 0.0 for stream in streams)
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

    assert failure.group_contains(MeasurementError, match="http_429")


@pytest.mark.parametrize(
    ("missing", "reason"), [(USAGE, "without .DONE."), (DONE, "without usage")]
)
async def test_a_stream_that_is_cut_fails_the_run(missing: bytes, reason: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=ROLE + TOKEN + missing, content_type="text/event-stream")

    async with _serving(answer) as server:
        with pytest.raises(ExceptionGroup) as failure:
            await run_closed_loop(str(server.make_url("/")), [b"{}"], concurrency=1)

    assert failure.group_contains(MeasurementError, match=reason)


def _serving(answer: object) -> TestServer:
    app = web.Application()
    app.router.add_post("/", answer)  # pyright: ignore[reportArgumentType]
    return TestServer(app)
