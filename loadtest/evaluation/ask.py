"""Asks a server one problem as a streamed chat completion, and keeps what it answered."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import aiohttp

from loadtest.client.chat import DETAIL_CHARACTERS, error_of, open_session, retry_after_s
from loadtest.client.stream import TextReader
from loadtest.errors import UserError
from loadtest.evaluation.datasets import Problem

DIRECTIVE = r"Please reason step by step, and put your final answer within \boxed{}."
# Between two pieces of an answer: a queue without heartbeats may be long.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=600.0)
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
# A Retry-After of 0 would be a busy loop.
SHORTEST_WAIT_S = 0.05
# How reasoning ended without an answer: in tierserve's words, and of a server that reports nothing
# but stopped at its limit before any answer.
TRUNCATED = ("cut", "unfinished")


@dataclass(slots=True)
class Answer:
    """To one problem in one run: a line of `answers.jsonl`, whose names stay. None is what the
    server did not report, or what did not happen; never 0 in its place.

    Times are seconds from sending the last attempt; `started_s` and `ended_s` are Unix time.
    """

    problem: str
    run: int
    text: str = ""
    thought: str = ""
    correct: bool = False
    # The result as found in the text, and why there is none if the grader gave up.
    extracted: str | None = None
    grade_note: str | None = None
    # An HTTP status, or `connection`, `stream` for one that broke; None for an answer.
    error: str | None = None
    error_text: str | None = None
    finish_reason: str | None = None
    thought_end: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    # To the first token of any kind, to the first token of the answer, to the last token.
    ttft_s: float | None = None
    ttfo_s: float | None = None
    e2e_s: float | None = None
    started_s: float = 0.0
    ended_s: float = 0.0
    # Times that the server answered 429 with a Retry-After, and was asked again.
    told_to_wait: int = 0
    # `tierserve.answer_policy`; empty where the server reports none.
    policy_report: dict[str, Any] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        return self.error is None

    @property
    def empty(self) -> bool:
        return self.answered and not self.text.strip()

    @property
    def reasoning_was_truncated(self) -> bool:
        return self.thought_end in TRUNCATED

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Fields of a later version are left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in row.items() if name in known})


@dataclass(frozen=True, slots=True)
class Sampling:
    """What is asked of the model beside the problem. None is left to the server."""

    temperature: float
    top_p: float
    seed: int
    max_tokens: int | None = None
    thinking_token_budget: int | None = None
    reasoning_effort: str | None = None
    task: str | None = None
    answer_policy: str | None = None
    directive: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def body(self, model: str, problem: Problem, run: int) -> bytes:
        text = f"{problem.text}\n{DIRECTIVE}" if self.directive else problem.text
        sampling = {name: value for name, value in self.as_dict().items() if value is not None}
        del sampling["directive"]
        document = {
            **sampling,
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "seed": self.seed + run,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(document).encode()


def open_evaluation_session(api_key: str | None) -> aiohttp.ClientSession:
    return open_session(TIMEOUT, api_key)


@dataclass(frozen=True, slots=True)
class Asker:
    """`retries`: how often a failed request is sent again. A 429 with a Retry-After is waited for,
    however often: this is an evaluation, not a load test. `api`: with /v1 at its end."""

    http: aiohttp.ClientSession
    api: str
    model: str
    sampling: Sampling
    retries: int = 0

    async def ask(self, problem: Problem, run: int) -> Answer:
        """Raises UserError where nobody answers: asking on would only count failures."""
        body = self.sampling.body(self.model, problem, run)
        retries, told_to_wait = 0, 0
        while True:
            answer = Answer(problem.id, run, told_to_wait=told_to_wait)
            wait_s = await self.attempt(body, answer)
            if answer.answered:
                return answer
            if answer.error == "429" and wait_s is not None:
                told_to_wait += 1
            elif retries < self.retries:
                retries += 1
                wait_s = wait_s or min(FIRST_PAUSE_S * 2 ** (retries - 1), LONGEST_PAUSE_S)
            elif answer.error == "unreachable":
                raise UserError(f"{self.api} cannot be reached: {answer.error_text}.")
            else:
                return answer
            await asyncio.sleep(max(wait_s, SHORTEST_WAIT_S))

    async def attempt(self, body: bytes, answer: Answer) -> float | None:
        """Fill the answer, asking once; the seconds that a refusing server asks to wait."""
        answer.started_s, sent_s = time.time(), time.perf_counter()
        reader = TextReader()
        try:
            async with self.http.post(f"{self.api}/chat/completions", data=body) as response:
                if response.status != 200:
                    text = await response.text(errors="replace")
                    answer.error = str(response.status)
                    answer.error_text = error_of(text).get("message") or text[:DETAIL_CHARACTERS]
                    return retry_after_s(response.headers.get("retry-after"))
                while block := await response.content.readany():
                    reader.feed(block, time.perf_counter() - sent_s)
                reader.close(time.perf_counter() - sent_s)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            answer.error, answer.error_text = "unreachable", str(error)
        except TimeoutError as error:
            answer.error, answer.error_text = "timeout", repr(error)
        except (aiohttp.ClientError, OSError) as error:
            answer.error, answer.error_text = "connection", repr(error)
        else:
            fill(answer, reader)
        finally:
            answer.ended_s = answer.started_s + time.perf_counter() - sent_s
        return None


def fill(answer: Answer, reader: TextReader) -> None:
    """From a stream that has ended."""
    if reader.error is not None:
        answer.error, answer.error_text = "stream", reader.error.message or reader.error.code
    elif reader.finish_reason is None:
        answer.error, answer.error_text = "stream", "ended without a finish_reason"
    answer.text, answer.thought = reader.answer, reader.all_reasoning
    answer.finish_reason = reader.finish_reason
    if reader.token_s:
        answer.ttft_s, answer.e2e_s = reader.token_s[0], reader.token_s[-1]
    answer.ttfo_s = reader.answer_s
    reported = (reader.metadata.get("thoughts") or [{}])[0]
    answer.thought_end = reported.get("end")
    answer.policy_report = reader.metadata.get("answer_policy") or {}
    if answer.thought_end is None and reader.finish_reason == "length" and answer.empty:
        answer.thought_end = "unfinished"
    answer.prompt_tokens = reader.usage.get("prompt_tokens")
    answer.completion_tokens = reader.usage.get("completion_tokens")
    details = reader.usage.get("completion_tokens_details") or {}
    answer.reasoning_tokens = details.get("reasoning_tokens")
    if answer.reasoning_tokens is None:
        answer.reasoning_tokens = reported.get("tokens")
