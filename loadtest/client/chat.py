"""One request to a server, from sending it to its last byte, and what kind of end it had."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from loadtest.load.record import Outcome, Record, Refusal
from loadtest.load.stream_reader import StreamReader

READ_BUFFER_BYTES = 1 << 20
# Said in a stream that heartbeats had opened, they are refusals as with a 429.
REFUSAL_CODES = frozenset({"queue_full", "wait_too_long"})
GOOD_ENDS = frozenset({"stop", "length", "tool_calls", None})

Clock = Callable[[], float]


def open_session(timeout_s: float, api_key: str | None = None) -> aiohttp.ClientSession:
    """A connection for each request, as of another user: a kept one that the server is about to
    close would be an error of the client's making."""
    headers = {"content-type": "application/json"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        read_bufsize=READ_BUFFER_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


@dataclass(frozen=True, slots=True)
class Client:
    """Asks, and writes down in the record what came; `clock` tells seconds of the run."""

    session: aiohttp.ClientSession
    clock: Clock

    async def ask(self, url: str, body: bytes, record: Record) -> Refusal | None:
        """One attempt; the refusal if it was refused. Faults of server and network are in the
        record."""
        reader = StreamReader()
        record.token_s = reader.token_s  # grows while the answer comes
        record.sent_s = self.clock()
        if record.first_sent_s is None:
            record.first_sent_s = record.sent_s
        refusal = None
        try:
            async with self.session.post(url, data=body) as response:
                if response.status != 200:
                    refusal = await self.not_served(response, record)
                elif response.content_type != "text/event-stream":
                    _fail(record, "no_stream", f"the answer is {response.content_type}")
                else:
                    refusal = await self._read(response, reader, record)
        except TimeoutError:
            _fail(record, "timeout", f"no end after {self.session.timeout.total:g} s")
        except (aiohttp.ClientError, OSError) as fault:
            _fail(record, "broken_stream" if reader.token_s else "connection", repr(fault))
        finally:
            record.ended_s = self.clock()
        if refusal is not None:
            record.outcome, record.reason = Outcome.REFUSED, refusal.reason
            record.refusals.append(refusal)
        return refusal

    async def _read(
        self, response: aiohttp.ClientResponse, reader: StreamReader, record: Record
    ) -> Refusal | None:
        clock, feed, content = self.clock, reader.feed, response.content
        while block := await content.readany():
            feed(block, clock())
        reader.close(clock())
        return self._judge(reader, record)

    def _judge(self, reader: StreamReader, record: Record) -> Refusal | None:
        usage = reader.usage
        record.answer_s, record.finish_reason = reader.answer_s, reader.finish_reason
        told = usage.get("completion_tokens")
        record.tokens_from = "usage" if told is not None else "chunks"
        record.output_tokens = told if told is not None else len(reader.token_s)
        record.input_tokens = usage.get("prompt_tokens")
        details = usage.get("completion_tokens_details") or {}
        record.reasoning_tokens = details.get("reasoning_tokens")
        if reader.error is not None and reader.error.code in REFUSAL_CODES and not reader.token_s:
            return Refusal(record.sent_s or 0.0, self.clock(), reader.error.code, None)
        if reader.error is not None:
            _fail(record, f"error_event:{reader.error.code}", reader.error.message)
        elif not reader.done:
            _fail(record, "broken_stream", "ended without [DONE]")
        elif reader.finish_reason not in GOOD_ENDS:
            _fail(record, f"finish:{reader.finish_reason}", "")
        elif not reader.token_s:
            _fail(record, "no_tokens", "")
        else:
            record.outcome, record.reason = Outcome.SERVED, None
        return None

    async def not_served(self, response: aiohttp.ClientResponse, record: Record) -> Refusal | None:
        """Of a status other than 200: the refusal, or None and the fault in the record."""
        text = await response.text(errors="replace")
        code = error_code(text)
        wait_s = retry_after_s(response.headers.get("retry-after"))
        refused = response.status == 429 or (response.status == 503 and wait_s is not None)
        if refused or code in REFUSAL_CODES:
            return Refusal(
                record.sent_s or 0.0, self.clock(), code or f"http_{response.status}", wait_s
            )
        _fail(record, f"http_{response.status}" + (f":{code}" if code else ""), text[:300])
        return None


def _fail(record: Record, reason: str, detail: str) -> None:
    record.outcome, record.reason, record.detail = Outcome.ERROR, reason, detail


def error_code(text: str) -> str | None:
    """Of an OpenAI error body; None if it has none."""
    try:
        document: Any = json.loads(text)
    except ValueError:
        return None
    error = document.get("error") if isinstance(document, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return str(code) if isinstance(code, str) and code else None


def retry_after_s(header: str | None) -> float | None:
    """From seconds or a date; None if it is not there or neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


async def come_back(wait_s: float) -> None:
    """Wait as told, and no shorter; a promise is for a time, and timers may be early."""
    await asyncio.sleep(wait_s + 0.01)
