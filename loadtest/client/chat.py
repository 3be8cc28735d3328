"""One chat completion, from sending it to its last byte, and what kind of end it had."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from loadtest.client.record import Outcome, Record, Refusal
from loadtest.client.stream import StreamReader

READ_BUFFER_BYTES = 1 << 20
# Said in a stream that heartbeats had opened, they are refusals as with a 429.
REFUSAL_CODES = frozenset({"queue_full", "wait_too_long"})
GOOD_ENDS = frozenset({"stop", "length", "tool_calls", None})
DETAIL_CHARACTERS = 300
# Timers may be early, and a server's promise is for a time.
RETRY_MARGIN_S = 0.01

Clock = Callable[[], float]
Read = Callable[[aiohttp.StreamReader], Awaitable[bytes]]


class RunClock:
    """Seconds from the beginning of the run."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._began_s


def open_session(
    timeout: float | aiohttp.ClientTimeout, api_key: str | None = None, *, keep_alive: bool = False
) -> aiohttp.ClientSession:
    """A connection for each request, as of another user: a kept one that the server is about to
    close would be an error of the client's making. `timeout`: of a whole request, in seconds."""
    headers = {"content-type": "application/json"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    whole = isinstance(timeout, aiohttp.ClientTimeout)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=not keep_alive),
        headers=headers,
        timeout=timeout if whole else aiohttp.ClientTimeout(total=timeout),
        read_bufsize=READ_BUFFER_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def chat_body(
    model: str,
    prompt: str,
    *,
    output_tokens: int,
    stream: bool = True,
    ignore_eos: bool = True,
    temperature: float = 0,
    more: Mapping[str, Any] | None = None,
) -> bytes:
    """By default greedy, streamed, and of exactly `output_tokens`; `more` fields come last."""
    document: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": output_tokens,
        "temperature": temperature,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
        **({"ignore_eos": True} if ignore_eos else {}),
        **(more or {}),
    }
    return json.dumps(document).encode()


@dataclass(frozen=True, slots=True)
class Client:
    """Sends requests and notes in the record what came; `clock` gives seconds of the run."""

    session: aiohttp.ClientSession
    clock: Clock

    async def stream(
        self, url: str, body: bytes, record: Record, read: Read = aiohttp.StreamReader.readany
    ) -> Refusal | None:
        """One attempt; the refusal if it was refused. Errors of server and network are in the
        record. `read` takes the next bytes of the answer, b"" at its end."""
        reader = StreamReader()
        record.token_s = reader.token_s  # grows while the answer comes
        try:
            async with self._post(url, body, record) as response:
                if response.status != 200:
                    return await self._not_served(response, record)
                if response.content_type != "text/event-stream":
                    _fail(record, "no_stream", f"the answer is {response.content_type}")
                    return None
                clock, feed, content = self.clock, reader.feed, response.content
                while block := await read(content):
                    feed(block, clock())
                reader.close(clock())
                return self._judge(reader, record)
        except TimeoutError:
            _fail(record, "timeout", f"no end after {self.session.timeout.total:g} s")
        except (aiohttp.ClientError, OSError) as error:
            _fail(record, "broken_stream" if reader.token_s else "connection", repr(error))
        finally:
            record.ended_s = self.clock()
        return None

    async def whole(self, url: str, body: bytes, record: Record) -> str | None:
        """The text of an answer that is not streamed; None where there was none."""
        try:
            async with self._post(url, body, record) as response:
                if response.status == 200:
                    return await response.text()
                await self._not_served(response, record)
        except TimeoutError:
            _fail(record, "timeout", "")
        except (aiohttp.ClientError, OSError) as error:
            _fail(record, "connection", repr(error))
        finally:
            record.ended_s = self.clock()
        return None

    def _post(self, url: str, body: bytes, record: Record) -> Any:
        record.sent_s = self.clock()
        if record.first_sent_s is None:
            record.first_sent_s = record.sent_s
        return self.session.post(url, data=body)

    def _judge(self, reader: StreamReader, record: Record) -> Refusal | None:
        usage = reader.usage
        record.answer_s, record.finish_reason = reader.answer_s, reader.finish_reason
        counted = usage.get("completion_tokens")
        record.tokens_from = "usage" if counted is not None else "chunks"
        record.output_tokens = counted if counted is not None else len(reader.token_s)
        record.input_tokens = usage.get("prompt_tokens")
        details = usage.get("completion_tokens_details") or {}
        record.reasoning_tokens = details.get("reasoning_tokens")
        error = reader.error
        if error is not None and error.code in REFUSAL_CODES and not reader.token_s:
            return self._refuse(record, error.code, None)
        if error is not None:
            _fail(record, f"error_event:{error.code}", error.message)
        elif not reader.done:
            _fail(record, "broken_stream", "ended without [DONE]")
        elif reader.finish_reason not in GOOD_ENDS:
            _fail(record, f"finish:{reader.finish_reason}", "")
        elif not reader.token_s:
            _fail(record, "no_tokens", "")
        else:
            record.outcome, record.reason = Outcome.SERVED, None
        return None

    async def _not_served(self, response: aiohttp.ClientResponse, record: Record) -> Refusal | None:
        text = await response.text(errors="replace")
        code, wait_s = error_code(text), retry_after_s(response.headers.get("retry-after"))
        refused = response.status == 429 or (response.status == 503 and wait_s is not None)
        if refused or code in REFUSAL_CODES:
            return self._refuse(record, code or f"http_{response.status}", wait_s)
        reason = f"http_{response.status}" + (f":{code}" if code else "")
        _fail(record, reason, text[:DETAIL_CHARACTERS])
        return None

    def _refuse(self, record: Record, reason: str, wait_s: float | None) -> Refusal:
        refusal = Refusal(record.sent_s or 0.0, self.clock(), reason, wait_s)
        record.outcome, record.reason = Outcome.REFUSED, reason
        record.refusals.append(refusal)
        return refusal


def _fail(record: Record, reason: str, detail: str) -> None:
    record.outcome, record.reason, record.detail = Outcome.ERROR, reason, detail


def error_of(text: str) -> dict[str, Any]:
    """The error of an OpenAI error body; empty if it has none."""
    try:
        document: Any = json.loads(text)
    except ValueError:
        return {}
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}


def error_code(text: str) -> str | None:
    code = error_of(text).get("code")
    return code if isinstance(code, str) and code else None


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


async def wait_for_retry(wait_s: float) -> None:
    """As long as was asked, and no shorter."""
    await asyncio.sleep(wait_s + RETRY_MARGIN_S)
