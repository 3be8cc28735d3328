"""One client of a soak: what it asks, how it behaves, and whether it got what it was to get."""

import asyncio
import json
import random
import socket
from array import array
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from loadtest.load.ask import Client
from loadtest.load.record import Outcome, Record
from loadtest.load.server import Target
from loadtest.soak.traffic import REFUSED_BODY, Kind

LEFT = "left"
# A slow reader takes so much each time.
SLOW_BYTES, SLOW_EVERY_S, SLOW_FOR_S = 256, 0.25, 20.0


async def visit(
    client: Client, target: Target, kind: Kind, body: bytes, record: Record
) -> str | None:
    """Ask as the kind does. What went wrong, in a word of `record.reason`'s kind; None if the
    client got what it was to get, a refusal for want of room included."""
    if kind.name == "slow":
        await read_slowly(client, target.url, body, record)
    elif kind.stream:
        await _stream(client, target.url, body, record, leaves=kind.leaves)
    else:
        text = await ask_whole(client, target.url, body, record)
        if text is not None and not kind.wrong:
            _judge_whole(kind, text, record)
    return _wrong(kind, record)


async def _stream(client: Client, url: str, body: bytes, record: Record, *, leaves: bool) -> None:
    if not leaves:
        await client.ask(url, body, record)
        return
    try:
        async with asyncio.timeout(random.Random(record.number).uniform(0.02, 1.0)):
            await client.ask(url, body, record)
    except TimeoutError:
        record.outcome, record.reason = Outcome.UNFINISHED, LEFT


async def ask_whole(client: Client, url: str, body: bytes, record: Record) -> str | None:
    """The text of an answer that is no stream; None where there was none."""
    record.sent_s = record.first_sent_s = client.clock()
    try:
        async with client.session.post(url, data=body) as response:
            if response.status == 200:
                return await response.text()
            refusal = await client.not_served(response, record)
            if refusal is not None:
                record.outcome, record.reason = Outcome.REFUSED, refusal.reason
    except TimeoutError:
        record.outcome, record.reason = Outcome.ERROR, "timeout"
    except (aiohttp.ClientError, OSError) as fault:
        record.outcome, record.reason, record.detail = Outcome.ERROR, "connection", repr(fault)
    finally:
        record.ended_s = client.clock()
    return None


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
        told = record.reason or "served"
        is_told = told.startswith(REFUSED_BODY)
        # A gate that is full refuses before the body's fields are looked at by the engine.
        return None if is_told or record.outcome is Outcome.REFUSED else told
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
