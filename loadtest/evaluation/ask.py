"""Asks a server one problem: a streamed chat completion, with OpenAI's own client."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from loadtest.evaluation.answer import Answer
from loadtest.evaluation.datasets import Problem
from loadtest.evaluation.faults import EvaluationFault
from loadtest.evaluation.stream import Stream

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

DIRECTIVE = r"Please reason step by step, and put your final answer within \boxed{}."
CONNECT_TIMEOUT_S = 10.0
# Between two pieces of an answer: a queue without heartbeats may be long.
SILENCE_LIMIT_S = 600.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
# A Retry-After of 0 would be a busy loop.
SHORTEST_WAIT_S = 0.05


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
    directive: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def request(self, problem: Problem, run: int) -> dict[str, Any]:
        """Arguments of the client's `create`; fields that OpenAI does not know in `extra_body`."""
        text = f"{problem.text}\n{DIRECTIVE}" if self.directive else problem.text
        own = {"thinking_token_budget": self.thinking_token_budget, "task": self.task}
        open_ai = {"max_tokens": self.max_tokens, "reasoning_effort": self.reasoning_effort}
        return {
            "messages": [{"role": "user", "content": text}],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed + run,
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_body": {name: value for name, value in own.items() if value is not None},
            **{name: value for name, value in open_ai.items() if value is not None},
        }


class Unreachable(EvaluationFault):
    """No connection: asking on would only count failures."""


def make_client(base_url: str, api_key: str | None) -> "AsyncOpenAI":
    """Retries are ours: what was asked twice must be known."""
    from openai import AsyncOpenAI, Timeout

    return AsyncOpenAI(
        base_url=base_url,
        api_key=api_key or "none",
        max_retries=0,
        timeout=Timeout(SILENCE_LIMIT_S, connect=CONNECT_TIMEOUT_S),
    )


@dataclass(frozen=True, slots=True)
class Asker:
    """`retries`: how often a failed request is asked again. A 429 that says when to come back is
    waited for, however often: this is an evaluation, not a load test."""

    client: "AsyncOpenAI"
    model: str
    sampling: Sampling
    retries: int = 0

    async def ask(self, problem: Problem, run: int) -> Answer:
        request = {"model": self.model, **self.sampling.request(problem, run)}
        retries, told_to_wait = 0, 0
        while True:
            answer = Answer(problem.id, run, told_to_wait=told_to_wait)
            wait_s = await self._attempt(request, answer)
            if answer.answered:
                return answer
            if answer.error == "429" and wait_s is not None:
                told_to_wait += 1
            elif retries < self.retries:
                retries += 1
                wait_s = wait_s or min(FIRST_PAUSE_S * 2 ** (retries - 1), LONGEST_PAUSE_S)
            elif answer.error == "unreachable":
                raise Unreachable(f"{self.client.base_url} cannot be reached: {answer.error_text}.")
            else:
                return answer
            await asyncio.sleep(max(wait_s, SHORTEST_WAIT_S))

    async def _attempt(self, request: Mapping[str, Any], answer: Answer) -> float | None:
        """Fill the answer; the seconds that a refusing server asks to wait."""
        from openai import APIConnectionError, APIError, APIStatusError

        answer.started_s, sent_s = time.time(), time.perf_counter()
        stream = Stream()
        try:
            async with await self.client.chat.completions.create(**request) as chunks:
                async for chunk in chunks:
                    stream.take(chunk, time.perf_counter() - sent_s)
        except APIStatusError as refusal:
            answer.error, answer.error_text = str(refusal.status_code), refusal.message
            return retry_after_s(refusal)
        except APIConnectionError as fault:
            answer.error, answer.error_text = _connection_fault(fault), _reason(fault)
        except (APIError, ValueError) as fault:  # an error event, or a chunk that is no JSON
            answer.error, answer.error_text = "stream", str(fault)
        else:
            stream.fill(answer)
            if stream.finish_reason is None:
                answer.error, answer.error_text = "stream", "ended without a finish_reason"
        finally:
            answer.ended_s = answer.started_s + time.perf_counter() - sent_s
        return None


def retry_after_s(refusal: "APIStatusError") -> float | None:
    """From the header, in seconds or as a date; None if it is not there."""
    told = refusal.response.headers.get("retry-after")
    if told is None:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None


def _connection_fault(fault: Exception) -> str:
    """Named by the cause: the client wraps its HTTP library's faults, whichever library it is."""
    cause = type(fault.__cause__).__name__
    if cause in ("ConnectError", "ConnectTimeout"):
        return "unreachable"
    return "timeout" if "Timeout" in cause else "connection"


def _reason(fault: Exception) -> str:
    return str(fault.__cause__ or fault) or type(fault.__cause__ or fault).__name__
