"""Calls that a request demands are well formed, whatever the model makes of them."""

import asyncio
import gzip
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest

from tests.e2e.client import Reply, ask, client_session
from tests.e2e.site import Site

CASES = Path(__file__).parents[1] / "data" / "bfcl_simple_python.jsonl.gz"
# All 400 take six minutes on two cores: BFCL_EACH=1.
EACH = int(os.environ.get("BFCL_EACH", "16"))
AT_ONCE = 6


def cases() -> list[dict[str, Any]]:
    with gzip.open(CASES, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][::EACH]


@pytest.mark.timeout(2400)
async def test_a_demanded_call_is_always_well_formed(site: Site) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(session: aiohttp.ClientSession, case: dict[str, Any]) -> Reply:
        body = {
            "messages": case["messages"],
            "tools": case["tools"],
            "tool_choice": "required",
            "temperature": 0,
            "max_tokens": 300,
        }
        async with places:
            return await ask(session, f"{site.url}/api/chat", body)

    chosen = cases()
    async with client_session() as session:
        replies = await asyncio.gather(*(one(session, case) for case in chosen))
    for case, reply in zip(chosen, replies, strict=True):
        assert reply.status == 200, reply.text
        answer = json.loads(reply.text)
        choice = answer["choices"][0]
        calls = choice["message"]["tool_calls"]
        assert calls, (case["id"], choice)
        closed = "closed" in answer.get("tierserve", {})
        assert choice["finish_reason"] == ("length" if closed else "tool_calls")
        schemas = {
            tool["function"]["name"]: tool["function"]["parameters"] for tool in case["tools"]
        }
        for call in calls:
            function = call["function"]
            jsonschema.validate(json.loads(function["arguments"]), schemas[function["name"]])
