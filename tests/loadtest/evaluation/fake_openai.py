"""A fake OpenAI server: no model, only what a test says that it answers."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest.__main__ import parse
from loadtest.evaluation.grade import Grade, grade, group

METRICS = """# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes{tier="chat",replica="a"} 1.0e+09
process_resident_memory_bytes{tier="reasoning",replica="b"} 2.0e+09
process_resident_memory_bytes{tier="reasoning",replica="c"} 3.0e+09
"""
TIERS = {
    "tiers": [
        {"tier": "chat", "url": "/api/chat", "model": "fake", "replicas": []},
        {
            "tier": "reasoning",
            "url": "/api/reasoning",
            "model": "fake",
            "replicas": [
                {"start_phases_s": {"load": 2.0, "total": 8.2}},
                {"start_phases_s": {"load": 2.0, "total": 7.0}},
            ],
        },
    ]
}


@dataclass(frozen=True)
class Reply:
    """`end` is what tierserve says of a thought; None for a server that says nothing."""

    answer: str = r"So it is \boxed{4}."
    thought: str = "two and two"
    end: str | None = "complete"
    finish_reason: str | None = "stop"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: bool = True
    # `tierserve.answer_policy`, and the tokens that no client sees.
    policy: Mapping[str, Any] | None = None
    unseen: int = 0


class FakeOpenAI:
    """`reply` decides by the request's body and its number."""

    def __init__(
        self,
        reply: Callable[[dict[str, Any], int], Reply] = lambda body, number: Reply(),
        models: Sequence[str] = ("fake",),
        *,
        reports_of_itself: bool = True,
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self._reply, self._models = reply, models
        app = web.Application()
        app.router.add_get("/api/{tier}/v1/models", self._list_models)
        app.router.add_post("/api/{tier}/v1/chat/completions", self._complete)
        if reports_of_itself:
            app.router.add_get("/api/tiers", self._tiers)
            app.router.add_get("/metrics", self._metrics)
        self._server = TestServer(app)

    async def __aenter__(self) -> "FakeOpenAI":
        await self._server.start_server()
        self.url = str(self._server.make_url("/api/reasoning/v1"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def asked(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]

    async def _list_models(self, _: web.Request) -> web.Response:
        models = [{"id": name, "object": "model", "created": 0} for name in self._models]
        return web.json_response({"object": "list", "data": models})

    async def _tiers(self, _: web.Request) -> web.Response:
        return web.json_response(TIERS)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=METRICS)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        reply = self._reply(body, len(self.bodies))
        if reply.status != 200:
            error = {"error": {"message": "the fake refuses"}}
            return web.json_response(error, status=reply.status, headers=reply.headers)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for chunk in chunks(reply):
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def chunks(reply: Reply) -> list[dict[str, Any]]:
    """A token is a word: those of the thought first, then those of the answer."""
    thought, answer = reply.thought.split(), reply.answer.split(" ") if reply.answer else []
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning": f"{word} "} for word in thought]
    deltas += [{"content": f"{word} "} for word in answer]
    made = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    last: dict[str, Any] = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish_reason}]
    }
    if reply.end is not None:
        reported: dict[str, Any] = {
            "thoughts": [{"index": 0, "end": reply.end, "tokens": len(thought)}],
        }
        if reply.policy is not None:
            reported["answer_policy"] = dict(reply.policy)
        last["tierserve"] = reported
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": len(thought) + len(answer) + reply.unseen,
        "total_tokens": 5 + len(thought) + len(answer),
        "completion_tokens_details": {"reasoning_tokens": len(thought)},
    }
    made.append(last)
    return [*made, {"choices": [], "usage": usage}] if reply.usage else made


class GraderHere:
    """Grades in the test's own main thread: the process of its own has its own test."""

    async def grade(self, reference: str, answer: str) -> Grade:
        return grade(reference, answer)

    async def group(self, answers: Sequence[str]) -> list[int | None]:
        return group(answers)

    async def __aenter__(self) -> "GraderHere":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


def sums(folder: Path, count: int = 4) -> Path:
    """A file of problems: `1 + 3`, whose answer is 4, `2 + 3`, ..."""
    file = folder / "sums.jsonl"
    rows = [
        {"id": f"p{i}", "problem": f"{i} + 3", "answer": str(i + 3)} for i in range(1, count + 1)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def options_of(*words: object) -> argparse.Namespace:
    return parse([str(word) for word in words])
