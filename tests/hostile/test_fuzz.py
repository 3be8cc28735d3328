"""Twenty thousand bad requests from our own OpenAPI document: refused, and nobody is disturbed."""

import asyncio
import hashlib
import io
import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import schemathesis

from tests.e2e.machine_clock import clock_s
from tests.hostile.attack import CHAT, REASONING, USER, Target
from tests.hostile.corpus import EXAMPLES, BadRequest, bad_requests, generated
from tests.hostile.verdict import DETAIL, faults_of
from tests.hostile.wire import Answer

# Requests that are refused, not counting those that turn out to be good.
REQUESTS = int(os.environ.get("HOSTILE_REQUESTS", "20000"))
SEED = int(os.environ.get("HOSTILE_SEED", "7"))
AT_ONCE = 24
LIMIT_S = 30.0
SHOWN = 40
# Where bodies of failed requests are kept that are too long for a command line.
KEPT = Path("build/hostile")
LONGEST_SHOWN = 2000
LIMITED = {"max_tokens": 1}


def good_bodies() -> Mapping[str, Mapping[str, Any]]:
    chat = {"messages": USER, **LIMITED}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    rich = {
        **chat,
        "tools": [tool],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object", "properties": {}}},
        },
        "stop": ["x"],
        "logit_bias": {"5": 1},
        "stream": True,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"a": 1},
    }
    bodies: dict[str, Mapping[str, Any]] = {}
    for tier in (CHAT, REASONING):
        bodies |= {
            tier: {"prompt": "hi", **LIMITED},
            f"{tier}/v1/chat/completions": rich if tier == CHAT else chat,
            f"{tier}/v1/completions": {"prompt": "hi", **LIMITED},
            f"{tier}/v1/responses": {"input": "hi", "max_output_tokens": 1},
            f"{tier}/v1/messages": {**chat, "system": "s", "stop_sequences": ["x"]},
            f"{tier}/v1/messages/count_tokens": {"model": tier.rpartition("/")[2], **chat},
            f"{tier}/tokenize": {"prompt": "hi"},
            f"{tier}/detokenize": {"tokens": [5, 6]},
        }
    return bodies | {
        "/v1/chat/completions": {"model": "chat", **chat},
        "/v1/completions": {"model": "reasoning", "prompt": "hi", **LIMITED},
        "/v1/responses": {"model": "chat", "input": "hi", "max_output_tokens": 1},
        "/v1/messages": {"model": "reasoning", **chat},
    }


@pytest.mark.timeout(1200)
async def test_every_bad_request_is_refused_in_form(
    target: Target, pytestconfig: pytest.Config
) -> None:
    document = target.site.get("/openapi.json").json()
    made = _kept(pytestconfig, document)
    requests = bad_requests(document, made, good_bodies(), SEED)
    findings = Findings(target)
    with target.tally.attacking("fuzz"):
        await _send_all(target, requests, findings)
    target.tally.notes += findings.shown()
    assert not target.deaths()
    assert findings.refused >= REQUESTS
    assert not findings.shown()


def _kept(config: pytest.Config, document: Mapping[str, Any]) -> Sequence[BadRequest]:
    """What schemathesis makes of this document takes it half a minute, once."""
    described = json.dumps([document, SEED, schemathesis.__version__, EXAMPLES], sort_keys=True)
    key = f"hostile/{hashlib.sha256(described.encode()).hexdigest()[:16]}"
    assert config.cache is not None
    if (kept := config.cache.get(key, None)) is None:
        made = generated(document, SEED, CHAT)
        kept = [(request.path, request.body.decode("latin-1")) for request in made]
        config.cache.set(key, kept)
    return [BadRequest("POST", path, body.encode("latin-1")) for path, body in kept]


async def _send_all(target: Target, requests: Iterator[BadRequest], findings: "Findings") -> None:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=LIMIT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def client() -> None:
            while findings.refused < REQUESTS:
                request = next(requests)
                findings.take(request, await _send(session, target.site.url, request))

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))


async def _send(session: aiohttp.ClientSession, url: str, request: BadRequest) -> Answer:
    answer, started_s = Answer(), clock_s()
    headers = {"content-type": request.content_type}
    try:
        async with session.request(
            request.method, url + request.path, data=io.BytesIO(request.body), headers=headers
        ) as response:
            answer.status = response.status
            answer.headers = [*response.headers.items()]
            answer.body = await response.read()
    except TimeoutError:
        answer.error = f"no end of the answer within {LIMIT_S:.0f} s"
    except (aiohttp.ClientError, OSError) as error:
        answer.error = repr(error)
    answer.took_s = clock_s() - started_s
    return answer


class Findings:
    """Answers that are not as promised, one example of each sort."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sorts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}
        self.refused = 0

    def take(self, request: BadRequest, answer: Answer) -> None:
        tally = self._target.tally
        tally.add(f"fuzz {request.path}", answer.status, answer.took_s)
        # A refusal for want of room says nothing of the request.
        self.refused += 400 <= answer.status < 500 and answer.status != 429
        for fault in faults_of(answer, anthropic="/v1/messages" in request.path):
            sort = (request.path, fault.partition(DETAIL)[0])
            self._sorts[sort] += 1
            if sort not in self._examples:
                self._examples[sort] = f"{fault}\n    {self._again(request)}"
        if answer.status == 0:
            # A dead replica would make thousands of the same.
            assert self._sorts.total() < 2000, self.shown()

    def shown(self) -> list[str]:
        most = self._sorts.most_common(SHOWN)
        lines = [f"{count} x {sort[0]}: {self._examples[sort]}" for sort, count in most]
        return lines + (
            [f"and {len(self._sorts) - SHOWN} more"] if len(self._sorts) > SHOWN else []
        )

    def _again(self, request: BadRequest) -> str:
        if len(request.body) <= LONGEST_SHOWN and b"\x00" not in request.body:
            return request.curl(self._target.site.url)
        KEPT.mkdir(parents=True, exist_ok=True)
        file = KEPT / f"{SEED}-{random.Random(request.body).getrandbits(40):010x}.json"
        file.write_bytes(request.body)
        return request.curl(self._target.site.url, str(file))
