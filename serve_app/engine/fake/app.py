"""The fake engine's HTTP side: OpenAI's chat and legacy completions, in vLLM's form."""

import asyncio
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from serve_app.config.engine import FakeEngineConfig
from serve_app.core.generation import GENERATION, Generation, SequenceFacts
from serve_app.engine.fake.batch import FakeBatch, FakeReply, FakeSequence
from serve_app.engine.fake.form import FakeForm, Kind, made_tokens
from serve_app.engine.fake.journal import FakeJournal
from serve_app.engine.fake.prefix_cache import PromptBlocks
from serve_app.errors import RequestError, invalid

CHARACTERS_PER_TOKEN = 4
# The legacy endpoint's own default.
COMPLETION_TOKENS = 16
_COMMON_FIELDS = frozenset(
    {
        *("model", "stream", "stream_options", "n", "max_tokens", "min_tokens", "ignore_eos"),
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"),
        *("frequency_penalty", "seed", "stop", "logit_bias", "logprobs", "user"),
    }
)
_CHAT_FIELDS = {"messages", "max_completion_tokens", "response_format", "tools", "tool_choice"}
# What the request rules know of the schemas; more than the answers depend on.
KNOWN_FIELDS: dict[str, frozenset[str]] = {
    "/v1/chat/completions": _COMMON_FIELDS | _CHAT_FIELDS,
    "/v1/completions": _COMMON_FIELDS | {"prompt", "echo", "suffix"},
}


def make_fake_app(
    batch: FakeBatch, config: FakeEngineConfig, *, served_names: Sequence[str], max_model_len: int
) -> Router:
    """Chat completions, completions, models, health. Raises RequestError for a client's error."""

    async def health(_: Request) -> Response:
        return Response()

    async def models(_: Request) -> Response:
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "fake"}
            for name in served_names
        ]
        return JSONResponse({"object": "list", "data": models})

    chat = _Completions("chat", batch, config, served_names, max_model_len)
    legacy = _Completions("legacy", batch, config, served_names, max_model_len)
    return Router(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat),
            Route("/v1/completions", legacy),
        ]
    )


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(BaseModel):
    model: str | None = None
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[str] | list[int] | list[list[int]] | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    n: int = 1


@dataclass(frozen=True, slots=True)
class _Completions:
    """ASGI application of one generating route."""

    kind: Kind
    batch: FakeBatch
    config: FakeEngineConfig
    served_names: Sequence[str]
    max_model_len: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        prompts = self._prompts(body)
        form = self._form(scope, body, prompts)
        lengths = [
            self._length(body, form.limit, prompt, copy)
            for prompt in prompts
            for copy in range(body.n)
        ]
        generation = GENERATION.get() or Generation()
        # Each copy reads the prompt for itself.
        generation.on_prompt(form.prompt_tokens * len(lengths))
        generation.prompt_tokens = form.prompt_tokens
        on_read = generation.on_first_token
        # Whole answers have none.
        journal = FakeJournal(generation.journal if body.stream else None)
        past_tokens = journal.past_tokens(len(lengths))
        with (
            self.batch.reply(
                form.prompt_tokens,
                lengths,
                on_read,
                past_tokens,
                self._blocks(form, prompts, generation),
            ) as reply,
            _counted(form, reply, generation),
            _ended(reply, receive),
        ):
            if body.stream:
                usage = body.stream_options is not None and body.stream_options.include_usage
                await _stream(form, reply, send, journal, generation, usage=usage)
                return
            async for _ in reply.parts():
                _end_in_time(reply, generation)
            if not reply.disconnected:
                await _start(send, b"application/json")
                await _send(send, form.whole(reply), more=False)

    def _blocks(
        self, form: FakeForm, prompts: Sequence[str], generation: Generation
    ) -> PromptBlocks | None:
        """Of a request with one prompt, where there is a prefix cache."""
        if not self.config.prefix_cache or len(prompts) != 1:
            return None
        return PromptBlocks.of(
            prompts[0], form.prompt_tokens, CHARACTERS_PER_TOKEN, generation.cache_salt
        )

    def _prompts(self, body: _Body) -> list[str]:
        if self.kind == "chat":
            if not body.messages:
                raise invalid("`messages` must be a list of messages.", param="messages")
            return ["\n".join(str(message.get("content") or "") for message in body.messages)]
        if body.prompt is None:
            raise invalid("`prompt` is missing.", param="prompt")
        if isinstance(body.prompt, str) or all(isinstance(part, int) for part in body.prompt):
            return [_as_text(body.prompt)]
        return [_as_text(part) for part in body.prompt]

    def _form(self, scope: Scope, body: _Body, prompts: Sequence[str]) -> FakeForm:
        model = body.model or self.served_names[0]
        if model not in self.served_names:
            raise RequestError(404, f"There is no model `{model}`.", code="model_not_found")
        prompt_tokens = max(len(prompt) // CHARACTERS_PER_TOKEN + 1 for prompt in prompts)
        room = self.max_model_len - prompt_tokens
        if room < 1:
            raise invalid(f"The prompt has more than {self.max_model_len} tokens.", param="prompt")
        asked = body.max_completion_tokens or body.max_tokens
        if asked is None:
            asked = room if self.kind == "chat" else COMPLETION_TOKENS
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"").decode() or uuid.uuid4().hex
        return FakeForm(
            self.kind, request_id, model, prompt_tokens, min(asked, room), int(time.time())
        )

    def _length(self, body: _Body, limit: int, prompt: str, copy: int) -> int:
        """Tokens of an answer: all that may be, or drawn; the same for the same prompt."""
        if body.ignore_eos:
            return limit
        spread = self.config.reply_spread
        rng = random.Random(f"{self.config.seed} {copy} {prompt}")  # noqa: S311 - repeatable
        drawn = rng.lognormvariate(log(self.config.reply_tokens) - spread**2 / 2, spread)
        return min(max(round(drawn), body.min_tokens, 1), limit)


async def _read(receive: Receive) -> _Body:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    try:
        return _Body.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][:1])
        raise invalid(f"`{field}`: {first['msg']}.", param=field) from error


@contextmanager
def _ended(reply: FakeReply, receive: Receive) -> Iterator[None]:
    """In this block the reply ends when the client leaves."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        reply.end()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


@contextmanager
def _counted(form: FakeForm, reply: FakeReply, generation: Generation) -> Iterator[None]:
    """With the end of this block it is known how long each answer has become."""
    try:
        yield
    finally:
        for index, sequence in enumerate(reply.sequences):
            generation.sequences[index] = _facts(form, sequence)


def _facts(form: FakeForm, sequence: FakeSequence) -> SequenceFacts:
    cut = sequence.cut or sequence.made_tokens >= form.limit
    return SequenceFacts(tokens=sequence.made_tokens, cut=cut)


def _end_in_time(reply: FakeReply, generation: Generation) -> None:
    """As the answer guard: with each token it is seen whether the request's time is over."""
    if generation.time is not None and generation.time.is_due:
        generation.time.answer_cut |= not all(one.finished for one in reply.sequences)
        reply.cut()


async def _stream(
    form: FakeForm,
    reply: FakeReply,
    send: Send,
    journal: FakeJournal,
    generation: Generation,
    *,
    usage: bool,
) -> None:
    started = False
    async for index, first, last, is_past in journal.parts(reply):
        if not started:
            await _start(send, b"text/event-stream; charset=utf-8")
            started = True
        sequence = reply.sequences[index]
        if not is_past:
            _end_in_time(reply, generation)
        reason = None
        if last == sequence.reply_tokens:
            reason = form.finish_reason(sequence)
            generation.sequences[index] = _facts(form, sequence)
        if not is_past:
            journal.record(index, first, last, reason)
        await _send(send, form.chunk(index, first, last, reason))
    if reply.disconnected:
        return
    if usage:
        await _send(send, form.usage_chunk(made_tokens(reply)))
    await _send(send, b"data: [DONE]\n\n", more=False)


async def _start(send: Send, content_type: bytes) -> None:
    headers = [(b"content-type", content_type)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _as_text(prompt: object) -> str:
    """Token ids count as much as the characters of as many tokens."""
    if isinstance(prompt, list):
        return " ".join(f"{token:<{CHARACTERS_PER_TOKEN - 1}}" for token in prompt)
    return str(prompt)
