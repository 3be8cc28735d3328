"""Routes that answer without FastAPI answer as they did with it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.testclient import TestClient

from serve_app.engine.vllm.straight_route import StraightRoute, answer_straight, giving_up_early

PATH = "/v1/chat/completions"
BODIES = {
    "a whole answer": b'{"text": "a\\u00e9", "times": 2}',
    "a stream": b'{"text": "a", "times": 3, "stream": true}',
    "a number as text": b'{"text": "a", "times": "2"}',
    "a field that is missing": b'{"times": 2}',
    "a field of another kind": b'{"text": ["a"], "times": 2}',
    "a list": b'[{"text": "a"}]',
    "nothing": b"",
    "no JSON": b'{"text": ',
    "half a surrogate": b'{"text": "\\ud800", "times": 0}',
    "not a number": b'{"text": "a", "share": NaN}',
    "a fault with a status": b'{"text": "teapot"}',
    "a fault that has a handler": b'{"text": "known"}',
}


class Asked(BaseModel):
    text: str
    times: int = 1
    share: float = 0.0
    stream: bool = False


class KnownFault(Exception):
    pass


def validate_json_request(raw_request: Request) -> None:
    assert raw_request.headers["content-type"] == "application/json"


def make_app() -> FastAPI:
    app = FastAPI()

    @app.exception_handler(KnownFault)
    async def tell(_: Request, fault: KnownFault) -> JSONResponse:
        return JSONResponse({"fault": str(fault)}, status_code=418)

    @app.post(PATH, dependencies=[Depends(validate_json_request)])
    async def answer(request: Asked, raw_request: Request) -> Any:
        if request.text == "teapot":
            raise HTTPException(418, "teapot")
        if request.text == "known":
            raise KnownFault("known")
        if request.stream:

            async def parts() -> AsyncIterator[str]:
                for _ in range(request.times):
                    yield request.text

            return StreamingResponse(parts(), media_type="text/event-stream")
        return JSONResponse({"text": request.text * request.times, "agent": raw_request.method})

    return app


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_answer_is_the_same(body: bytes) -> None:
    def answer(app: FastAPI) -> tuple[int, str, bytes]:
        headers = {"content-type": "application/json"}
        reply = TestClient(app).post(PATH, content=body, headers=headers)
        return reply.status_code, reply.headers["content-type"], reply.content

    usual, straight = make_app(), make_app()
    assert answer_straight(straight, {PATH: Asked}) == [PATH]
    assert answer(straight) == answer(usual)


async def test_nothing_is_sent_to_a_client_that_has_left() -> None:
    async def left(request: Asked, raw_request: Request) -> None:
        assert (await raw_request.receive())["type"] == "http.disconnect"

    async def usual(*_: Any) -> None:
        raise AssertionError("the request was a good one")

    messages = [{"type": "http.request", "body": b'{"text": "a"}'}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": []}
    await StraightRoute(Asked, left, giving_up_early(Asked), usual)(scope, receive, send)
    assert sent == []


def test_routes_that_need_more_are_left_alone() -> None:
    app = FastAPI()

    def allowed(raw_request: Request) -> None:
        del raw_request

    @app.post(PATH, dependencies=[Depends(allowed)])
    async def guarded(request: Asked, raw_request: Request) -> str:
        return f"{request} {raw_request}"

    @app.post("/v1/completions")
    async def more(request: Asked, raw_request: Request, deep: bool = False) -> str:
        return f"{request} {raw_request} {deep}"

    @app.get("/v1/responses")
    async def listed(raw_request: Request) -> str:
        return f"{raw_request}"

    schemas = dict.fromkeys([PATH, "/v1/completions", "/v1/responses"], Asked)
    assert answer_straight(app, schemas) == []
