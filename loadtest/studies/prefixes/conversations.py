"""Users who talk in turns: each turn's prompt is the conversation so far, and its first token is
timed."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from loadtest.errors import MeasurementError

# Both are small, so that words are tokens to any vocabulary.
SUBJECTS = ("river", "house", "train", "garden", "letter", "market", "winter", "doctor")
VERBS = ("crosses", "follows", "finds", "paints", "leaves", "opens", "counts", "carries")
TOKENS_A_SENTENCE = 9


@dataclass(frozen=True, slots=True)
class Talk:
    """What users do: `users` at a time, `turns` in a conversation on average, the first prompt of
    `prompt_tokens` and each further message of `more_tokens` about, answers of `output_tokens`, and
    `think_s` on average between an answer and the next turn."""

    users: int
    turns: int
    prompt_tokens: int
    more_tokens: int
    output_tokens: int
    think_s: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One request that was answered; `sent_s` by the process's clock."""

    number: int
    sent_s: float
    first_token_s: float
    prompt_tokens: int


@dataclass(slots=True)
class Conversations:
    """They go on until `end`. No two of one seed, or of two, say the same."""

    talk: Talk
    session: aiohttp.ClientSession
    url: str
    model: str
    seed: int
    turns: list[Turn] = field(default_factory=list[Turn])
    refused: int = 0
    _ended: bool = False

    async def run(self) -> None:
        """Raises MeasurementError for an answer that is neither tokens nor a 429."""
        try:
            async with asyncio.TaskGroup() as users:
                for number in range(self.talk.users):
                    users.create_task(self._user(random.Random(f"{self.seed} {number}")))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    def end(self) -> None:
        """Each user has the answer of this turn, and no more."""
        self._ended = True

    async def _user(self, rng: random.Random) -> None:
        await asyncio.sleep(rng.random() * (self.talk.think_s + 1.0))
        while not self._ended:
            messages = [{"role": "user", "content": sentences(rng, self.talk.prompt_tokens)}]
            for number in range(rng.randint(max(1, self.talk.turns - 2), self.talk.turns + 2)):
                if number:
                    more = sentences(rng, self.talk.more_tokens)
                    messages.append({"role": "user", "content": more})
                answer = await self._ask(messages, number)
                if answer is None or self._ended:
                    break
                messages.append({"role": "assistant", "content": answer})
                await asyncio.sleep(rng.expovariate(1 / self.talk.think_s))

    async def _ask(self, messages: Sequence[dict[str, str]], number: int) -> str | None:
        """The answer's text; None where it was refused."""
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.talk.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        sent_s = time.perf_counter()
        async with self.session.post(self.url, data=json.dumps(body)) as response:
            if response.status == 429:
                self.refused += 1
                await asyncio.sleep(1.0)
                return None
            if response.status != 200:
                raise MeasurementError(f"{response.status}: {(await response.text())[:300]}")
            return await self._read(response, number, sent_s)

    async def _read(
        self, response: aiohttp.ClientResponse, number: int, sent_s: float
    ) -> str | None:
        text, first_s, prompt_tokens = "", None, 0
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event: dict[str, Any] = json.loads(line[len(b"data: ") :])
            if "error" in event:
                if event["error"].get("code") in ("queue_full", "wait_too_long"):
                    self.refused += 1
                    return None
                raise MeasurementError(f"a stream ended with {event['error']}")
            prompt_tokens = (event.get("usage") or {}).get("prompt_tokens") or prompt_tokens
            for choice in event["choices"]:
                content = choice["delta"].get("content") or ""
                text += content
                if first_s is None and content:
                    first_s = time.perf_counter() - sent_s
        if first_s is None:
            raise MeasurementError("a stream ended without a token")
        self.turns.append(Turn(number, sent_s, first_s, prompt_tokens))
        return text


def sentences(rng: random.Random, tokens: int) -> str:
    """About so many tokens of English that nobody has said before."""
    count = max(1, round(tokens / TOKENS_A_SENTENCE))
    return " ".join(
        f"The {rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.randrange(100)} of the "
        f"{rng.choice(SUBJECTS)}s."
        for _ in range(count)
    )
