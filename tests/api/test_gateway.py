"""The unified /v1: the tier that `model` names gets the request, and its answer passes through."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serve_app.api.gateway import Gateway, tier_of
from serve_app.api.web_app import make_web_app
from serve_app.core.tiers import Tier
from tests.api.loopback import served, unreachable
from tests.api.web_client import BOTH, FakeTiers, a_client
from tests.virtual_time import now_s


@asynccontextmanager
async def passing_to(
    answer: Callable[[Request], Awaitable[Response]], **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the web application in front of tiers that answer so."""
    tiers = Starlette(routes=[Route("/api/{rest:path}", answer, methods=["POST"])])
    async with served(tiers) as url, a_client(upstream=url, **options) as client:
        yield client


@asynccontextmanager
async def passing_streams_of(
    tokens: Callable[[], AsyncIterator[bytes]],
) -> AsyncIterator[httpx.AsyncClient]:
    """The same over sockets, where a stream comes piece by piece."""

    async def answer(request: Request) -> Response:
        return StreamingResponse(tokens(), media_type="text/event-stream")

    tiers = Starlette(routes=[Route("/api/{rest:path}", answer, methods=["POST"])])
    async with served(tiers) as url:

        async def base_url() -> str:
            return url

        gateway = Gateway(base_url, BOTH, 1024)
        web = make_web_app(BOTH, FakeTiers(), gateway)
        async with served(web) as web_url, httpx.AsyncClient(base_url=web_url) as client:
            yield client
        await gateway.close()


async def echo(request: Request) -> Response:
    return JSONResponse(
        {
            "path": request.url.path,
            "body": await request.json(),
            "headers": dict(request.headers),
        },
        headers={"x-from-tier": "yes"},
    )


# --- which tier


@pytest.mark.parametrize(
    ("model", "tier"),
    [
        ("chat", Tier.CHAT),
        ("reasoning", Tier.REASONING),
        ("org/model", Tier.CHAT),
        (None, Tier.CHAT),
        (5, Tier.CHAT),
        ([], Tier.CHAT),
    ],
)
def test_the_model_names_the_tier_and_any_other_name_means_chat(model: object, tier: Tier) -> None:
    assert tier_of(model, BOTH) is tier


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "messages"])
@pytest.mark.parametrize("model", ["chat", "reasoning"])
async def test_each_route_of_the_unified_v1_goes_to_the_tiers_own(path: str, model: str) -> None:
    async with passing_to(echo) as client:
        answer = await client.post(f"/v1/{path}", json={"model": model, "prompt": "naïve 🙂"})
    assert answer.json()["path"] == f"/api/{model}/v1/{path}"
    assert answer.json()["body"] == {"model": model, "prompt": "naïve 🙂"}
    assert answer.headers["x-from-tier"] == "yes"


async def test_the_request_id_and_the_clients_headers_go_along() -> None:
    async with passing_to(echo) as client:
        answer = await client.post(
            "/v1/completions", json={}, headers={"authorization": "Bearer k", "x-other": "1"}
        )
    seen = answer.json()["headers"]
    assert seen["x-request-id"] == answer.headers["x-request-id"]
    assert (seen["authorization"], seen["x-other"]) == ("Bearer k", "1")


# --- passing through


async def test_a_body_of_megabytes_passes_without_a_warning() -> None:
    """Warnings are errors here."""
    text = "x" * 2_000_000
    async with passing_to(echo, max_body_bytes=4_000_000) as client:
        answer = await client.post("/v1/completions", json={"prompt": text})
    assert answer.json()["body"]["prompt"] == text


async def test_a_header_that_comes_twice_passes_twice() -> None:
    async def warned(request: Request) -> Response:
        answer = JSONResponse({})
        for text in ("hot", "lowered"):
            answer.headers.append("x-tierserve-warning", text)
        return answer

    async with passing_to(warned) as client:
        answer = await client.post("/v1/completions", json={})
    assert answer.headers.get_list("x-tierserve-warning") == ["hot", "lowered"]


async def test_what_each_server_says_of_itself_is_said_once() -> None:
    async def dated(request: Request) -> Response:
        return JSONResponse({}, headers={"date": "then", "server": "behind"})

    async with passing_to(dated) as client:
        answer = await client.post("/v1/completions", json={})
    assert {"date", "server"}.isdisjoint(answer.headers)


async def test_a_stream_passes_through_chunk_by_chunk() -> None:
    taken = asyncio.Event()

    async def tokens() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        # The second chunk is made only after the first one has come out at the other end.
        await taken.wait()
        yield b"data: 2\n\n"

    async with passing_streams_of(tokens) as client:
        async with client.stream("POST", "/v1/chat/completions", json={}) as response:
            chunks = response.aiter_bytes()
            assert await anext(chunks) == b"data: 1\n\n"
            taken.set()
            assert await anext(chunks) == b"data: 2\n\n"
        assert response.headers["content-type"].startswith("text/event-stream")


async def test_a_client_that_leaves_ends_the_work_in_the_tier() -> None:
    ended = asyncio.Event()

    async def tokens() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: 1\n\n"
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with passing_streams_of(tokens) as client:
        async with client.stream("POST", "/v1/chat/completions", json={}) as response:
            await anext(response.aiter_bytes())
        async with asyncio.timeout(20):
            await ended.wait()


async def test_a_refusal_of_the_tier_passes_with_its_time_to_come_back() -> None:
    async def refuse(request: Request) -> Response:
        error = {"error": {"message": "full", "type": "rate_limit_error"}}
        return JSONResponse(error, status_code=429, headers={"retry-after": "7"})

    async with passing_to(refuse) as client:
        answer = await client.post("/v1/chat/completions", json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["type"] == "rate_limit_error"


async def test_a_tier_that_cannot_be_reached_is_a_502_in_openais_form() -> None:
    async with unreachable() as url, a_client(upstream=url) as client:
        answer = await client.post("/v1/chat/completions", json={"model": "reasoning"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "tier_unreachable")
    assert "reasoning" in answer.json()["error"]["message"]


async def test_a_proxy_that_refuses_is_asked_again_however_late_it_does() -> None:
    """As after the end of a kept connection, over which a request has waited for long."""
    tiers = Starlette(routes=[Route("/api/{rest:path}", echo, methods=["POST"])])
    late_s = 0.0
    async with served(tiers) as url, unreachable() as nobody:
        asked = [url, nobody]

        async def base_url() -> str:
            nonlocal late_s
            late_s += 10.0
            return asked.pop() if len(asked) > 1 else url

        gateway = Gateway(base_url, BOTH, 1024, clock_s=lambda: now_s() + late_s)
        web = make_web_app(BOTH, FakeTiers(), gateway)
        async with served(web) as web_url, httpx.AsyncClient(base_url=web_url) as client:
            answer = await client.post("/v1/completions", json={})
        await gateway.close()
    assert (answer.status_code, asked) == (200, [url])


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 400), (b'"' + b"x" * 2000 + b'"', 413)]
)
async def test_a_bad_body_is_refused_before_any_tier_is_asked(body: bytes, status: int) -> None:
    async with unreachable() as url, a_client(upstream=url) as client:
        openai = await client.post("/v1/chat/completions", content=body)
        anthropic = await client.post("/v1/messages", content=body)
    assert (openai.status_code, anthropic.status_code) == (status, status)
    assert "type" not in openai.json()
    assert anthropic.json()["type"] == "error"


# --- a tier that says nothing yet


def answering_late(answer: Response, after_s: float) -> Callable[[Request], Awaitable[Response]]:
    async def late(request: Request) -> Response:
        await asyncio.sleep(after_s)
        return answer

    return late


STREAM = {"model": "chat", "stream": True}


async def test_a_stream_is_held_with_heartbeats_until_its_tier_answers() -> None:
    answers = asyncio.Event()

    async def answer(request: Request) -> Response:
        await answers.wait()
        return StreamingResponse(iter([b"data: 1\n\n"]), media_type="text/event-stream")

    tiers = Starlette(routes=[Route("/api/{rest:path}", answer, methods=["POST"])])
    async with served(tiers) as url:

        async def base_url() -> str:
            return url

        gateway = Gateway(base_url, BOTH, 1024, heartbeat_s=0.1)
        web = make_web_app(BOTH, FakeTiers(), gateway)
        text, asked_s, answered_s = "", now_s(), 0.0
        async with (
            served(web) as web_url,
            httpx.AsyncClient(base_url=web_url) as client,
            client.stream("POST", "/v1/chat/completions", json=STREAM) as held,
        ):
            assert held.headers["content-type"].startswith("text/event-stream")
            async for part in held.aiter_text():
                text += part
                if text.count(": waiting for a replica\n\n") >= 2:
                    answers.set()
                    answered_s = now_s()
        await gateway.close()
    assert held.status_code == 200
    assert text.replace(": waiting for a replica\n\n", "") == "data: 1\n\n"
    assert answered_s - asked_s >= 0.2


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/v1/chat/completions", 'data: {"error":"full"}\n\ndata: [DONE]\n\n'),
        ("/v1/messages", 'event: error\ndata: {"error":"full"}\n\n'),
    ],
)
async def test_a_late_refusal_ends_the_stream_that_was_kept_alive(path: str, end: str) -> None:
    refusal = JSONResponse({"error": "full"}, status_code=429)
    async with passing_to(answering_late(refusal, 0.25), heartbeat_s=0.1) as client:
        held = await client.post(path, json=STREAM)
    assert held.status_code == 200
    assert held.text.endswith(end)


async def test_a_whole_answer_is_waited_for_and_keeps_its_status() -> None:
    refusal = JSONResponse({"error": "full"}, status_code=429)
    async with passing_to(answering_late(refusal, 0.25), heartbeat_s=0.1) as client:
        waited = await client.post("/v1/chat/completions", json={"model": "chat"})
    assert (waited.status_code, waited.json()) == (429, {"error": "full"})


async def test_behind_two_servers_date_and_server_stand_once_in_an_answer() -> None:
    """Both of them write theirs; RFC 9110 has each once."""

    async def answer(request: Request) -> Response:
        if (await request.json()).get("stream"):
            return StreamingResponse(iter([b"data: 1\n\n"]), media_type="text/event-stream")
        return JSONResponse({})

    tiers = Starlette(routes=[Route("/api/{rest:path}", answer, methods=["POST"])])
    async with served(tiers) as url:

        async def base_url() -> str:
            return url

        gateway = Gateway(base_url, BOTH, 1024)
        web = make_web_app(BOTH, FakeTiers(), gateway)
        async with served(web) as web_url, httpx.AsyncClient(base_url=web_url) as client:
            for payload in ({"model": "chat"}, STREAM):
                answered = await client.post("/v1/chat/completions", json=payload)
                names = [name.lower() for name, _ in answered.headers.raw]
                for name in (b"date", b"server", b"content-type", b"x-request-id"):
                    assert (name, names.count(name)) == (name, 1)
        await gateway.close()


async def test_a_whole_answer_keeps_its_length() -> None:
    async with passing_to(echo) as client:
        answer = await client.post("/v1/completions", json={})
    assert int(answer.headers["content-length"]) == len(answer.content)
