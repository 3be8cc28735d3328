"""The kinds of requests that a soak mixes, and the bodies that they have."""

import asyncio
import json
import random
import socket
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

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
    """`share` of its tier's arrivals; 0: only a fault sends it. `leaves`: its clients hang up
    within a second. `wrong`: its bodies are refused. `repeats`: one of a few questions."""

    name: str
    share: float
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
            arrivals=Poisson(rate=rate * kind.share or 1.0),
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
    """A bare socket with a small buffer, since a client library reads ahead; after
    `SLOW_FOR_S` the rest is read as it comes."""
    record.sent_s = record.first_sent_s = client.clock()
    try:
        async with asyncio.timeout(client.session.timeout.total):
            text = await _exchange(client, url, body, record)
    except (TimeoutError, OSError) as fault:
        record.outcome, record.reason = Outcome.ERROR, "broken_stream"
        record.detail = repr(fault)
        return
    finally:
        record.ended_s = client.clock()
    head = text[:200]
    if b" 429 " in head or b" 503 " in head:
        record.outcome, record.reason = Outcome.REFUSED, "queue_full"
    elif b"data: [DONE]" not in text[-200:]:
        record.outcome, record.reason = Outcome.ERROR, "broken_stream"
        record.detail = f"{head!r} … {text[-200:]!r}"
    else:
        record.outcome = Outcome.SERVED


async def _exchange(client: Client, url: str, body: bytes, record: Record) -> bytes:
    reader, writer = await _connect(url)
    try:
        place = urlsplit(url)
        head = (
            f"POST {place.path} HTTP/1.1\r\nhost: {place.netloc}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        text = b""
        while block := await reader.read(SLOW_BYTES):
            text += block
            if client.clock() - (record.sent_s or 0.0) < SLOW_FOR_S:
                await asyncio.sleep(SLOW_EVERY_S)
        return text
    finally:
        writer.close()


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(url)
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Before it connects, since the window is agreed on then.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    port = place.port or 80
    await asyncio.get_running_loop().sock_connect(sock, (place.hostname or "", port))
    return await asyncio.open_connection(sock=sock, limit=SLOW_BYTES)


def shortened(record: Record) -> dict[str, Any]:
    """The record without the time of each chunk: three days of them would fill a disk. TTFT, TPOT
    and E2E need only the first and the last."""
    if len(record.token_s) > 2:
        record.token_s = array("d", (record.token_s[0], record.token_s[-1]))
    return record.as_dict()
