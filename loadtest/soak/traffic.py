"""The kinds of requests that a soak mixes, and the bodies that they have."""

import asyncio
import json
import random
import socket
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from loadtest.client.chat import Client, chat_body
from loadtest.client.record import Outcome, Record
from loadtest.load.prompts import PromptWriter
from loadtest.load.targets import Target
from loadtest.scenario import Load, Poisson, Scenario, Slo, Tokens, Uniform

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "count": {"type": "integer"}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "item", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": SCHEMA}}
# Each is wrong in one field; the server says so with 400 or 422.
WRONG: tuple[Mapping[str, Any], ...] = (
    {"max_tokens": "many"},
    {"temperature": -1},
    {"messages": []},
    {"n": 0},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 7}}},
)
REFUSED_BODY = ("http_400", "http_422")
QUESTIONS = 8
LEFT = "left"
# A slow reader takes so much each time.
SLOW_BYTES, SLOW_EVERY_S, SLOW_FOR_S = 256, 0.25, 20.0


@dataclass(frozen=True, slots=True)
class Kind:
    """`fraction` of its tier's arrivals; 0: only a fault sends it. `leaves`: its clients hang up
    within a second. `wrong`: its bodies are refused. `repeats`: one of a few questions."""

    name: str
    fraction: float
    output_tokens: Tokens
    input_tokens: Tokens = 48
    stream: bool = True
    exact: bool = True
    leaves: bool = False
    wrong: bool = False
    repeats: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


KINDS = (
    Kind("short", 0.31, Uniform(low=8, high=64), Uniform(low=16, high=96)),
    Kind("long", 0.15, Uniform(low=120, high=400), Uniform(low=64, high=512)),
    Kind("whole", 0.20, Uniform(low=8, high=96), stream=False),
    Kind("leaves", 0.08, 400, leaves=True),
    Kind("wrong", 0.06, 16, stream=False, wrong=True),
    Kind("stop", 0.05, 64, exact=False, extra={"stop": ["the ", "9"]}),
    Kind("json", 0.05, 64, stream=False, exact=False, extra={"response_format": FORMAT}),
    Kind(
        # Reasoning takes three quarters of it, and a call has to fit into the rest.
        *("tool", 0.05, 300),
        stream=False,
        exact=False,
        extra={"tools": [TOOL], "tool_choice": "required"},
    ),
    Kind("repeated", 0.05, 24, repeats=True),
    Kind("storm", 0, 400, leaves=True),
    Kind("burst", 0, 48),
    Kind("slow", 0, 300),
    Kind("probe", 0, 1, 8),
)
BY_NAME = {kind.name: kind for kind in KINDS}
# Streams that are read to their end and are as long as asked: their latencies are compared.
TIMED = ("short", "long")


def scenario_of(
    base_url: str, rates_per_s: Mapping[str, float], slo: Slo, seed: int, timeout_s: float
) -> Scenario:
    """A load for each tier and kind, in the order of `KINDS`; a fault's own kinds have a rate
    that nobody reads, so that a record's `load` always names its kind."""
    loads = [
        Load(
            tier=tier,
            arrivals=Poisson(rate=rate * kind.fraction or 1.0),
            input_tokens=kind.input_tokens,
            output_tokens=kind.output_tokens,
            duration=1.0,
        )
        for tier, rate in rates_per_s.items()
        for kind in KINDS
    ]
    return Scenario(
        name="soak", base_url=base_url, loads=tuple(loads), slo=slo, seed=seed, timeout=timeout_s
    )


def kind_of(load: int) -> Kind:
    """Of a record's `load`."""
    return KINDS[load % len(KINDS)]


def body_of(
    kind: Kind, target: Target, writer: PromptWriter, number: int, tokens: tuple[int, int]
) -> bytes:
    """`tokens`: of prompt and answer."""
    asked, answer = tokens
    prompt = f"question {number % QUESTIONS}" if kind.repeats else writer.write(number, asked)
    return chat_body(
        target.model,
        prompt,
        output_tokens=answer,
        stream=kind.stream,
        ignore_eos=kind.exact,
        # What is not deterministic is not kept, so that the questions alone fill the cache.
        temperature=0 if kind.repeats else 0.6,
        more={**kind.extra, **(WRONG[number % len(WRONG)] if kind.wrong else {})},
    )


async def behave(
    client: Client, target: Target, kind: Kind, body: bytes, record: Record
) -> str | None:
    """Ask as the kind does. What went wrong, in a word of `record.reason`'s kind; None if the
    client got what it was to get, a refusal for want of room included."""
    if kind.name == "slow":
        await read_slowly(client, target.url, body, record)
    elif kind.stream:
        await _stream(client, target.url, body, record, leaves=kind.leaves)
    else:
        text = await client.whole(target.url, body, record)
        if text is not None and not kind.wrong:
            _judge_whole(kind, text, record)
    return _wrong(kind, record)


async def _stream(client: Client, url: str, body: bytes, record: Record, *, leaves: bool) -> None:
    if not leaves:
        await client.stream(url, body, record)
        return
    try:
        async with asyncio.timeout(random.Random(record.number).uniform(0.02, 1.0)):
            await client.stream(url, body, record)
    except TimeoutError:
        record.outcome, record.reason = Outcome.UNFINISHED, LEFT


def _judge_whole(kind: Kind, text: str, record: Record) -> None:
    try:
        document: dict[str, Any] = json.loads(text)
        message = document["choices"][0]["message"]
        record.output_tokens = document["usage"]["completion_tokens"]
        if kind.name == "json":
            json.loads(message["content"])
        if kind.name == "tool":
            json.loads(message["tool_calls"][0]["function"]["arguments"])
    except (ValueError, KeyError, TypeError, IndexError) as fault:
        record.outcome, record.reason = Outcome.ERROR, f"not_{kind.name}"
        record.detail = f"{fault!r}: {text[:300]}"
        return
    record.outcome, record.tokens_from = Outcome.SERVED, "usage"
    record.finish_reason = document["choices"][0].get("finish_reason")


def _wrong(kind: Kind, record: Record) -> str | None:
    if kind.wrong:
        reason = record.reason or "served"
        # A gate that is full refuses before the body's fields are looked at by the engine.
        right = reason.startswith(REFUSED_BODY) or record.outcome is Outcome.REFUSED
        return None if right else reason
    return record.reason or "unknown" if record.outcome is Outcome.ERROR else None


async def read_slowly(client: Client, url: str, body: bytes, record: Record) -> None:
    """With a small buffer in each place that has one, since a client reads ahead; after
    `SLOW_FOR_S` the rest is read as it comes."""
    began_s = client.clock()

    async def read(content: aiohttp.StreamReader) -> bytes:
        if client.clock() - began_s < SLOW_FOR_S:
            await asyncio.sleep(SLOW_EVERY_S)
        return await content.read(SLOW_BYTES)

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, socket_factory=_small_socket),
        headers=client.session.headers,
        timeout=client.session.timeout,
        read_bufsize=SLOW_BYTES,
    ) as session:
        await Client(session, client.clock).stream(url, body, record, read)


def _small_socket(address: Any) -> socket.socket:
    family, kind, protocol, *_ = address
    found = socket.socket(family, kind, protocol)
    # Before it connects, since the window is agreed on then.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.setblocking(False)
    return found


def shortened(record: Record) -> dict[str, Any]:
    """The record without the time of each chunk: three days of them would fill a disk. TTFT, TPOT
    and E2E need only the first and the last."""
    if len(record.token_s) > 2:
        record.token_s = array("d", (record.token_s[0], record.token_s[-1]))
    return record.as_dict()
