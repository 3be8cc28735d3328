"""The requests of the study: each way in which a stream's state could be lost, with micro-r1."""

import json
import random
from collections.abc import Mapping
from typing import Any

from loadtest.studies.continuity.streams import Ask, Stream
from loadtest.studies.micro_r1.problems import held_out_problems
from serve_app.core.tiers import Tier

CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
# Long enough that a stream runs for seconds wherever it is cut.
TOKENS = 700
BUDGET_TOKENS, JSON_TOKENS = 200, 160
SCHEMA = {
    "type": "object",
    "properties": {
        "thing": {"type": "string", "maxLength": 40},
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 12, "maxItems": 30},
    },
    "required": ["thing", "numbers"],
    "additionalProperties": False,
}
COUNTED = {"stream": True, "temperature": 0, "stream_options": {"include_usage": True}}


def asks(tier: Tier, count: int, seed: int) -> list[Ask]:
    """Of each kind in turn; the same `seed` gives the same requests."""
    problems = held_out_problems(seed, max(count, 1))
    rng = random.Random(seed)
    return [
        _MAKERS[number % len(_MAKERS)](tier, f"{problem.text} ({rng.randrange(10**6)})")
        for number, problem in enumerate(problems[:count])
    ]


def _chat(tier: Tier, text: str, **more: Any) -> Mapping[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": tier.value, "messages": messages, **COUNTED, **more}


def plain(tier: Tier, text: str) -> Ask:
    """Reasoning, answer and what comes after it."""
    return Ask("text", CHAT, _chat(tier, text, max_tokens=TOKENS, ignore_eos=True))


def budget(tier: Tier, text: str) -> Ask:
    """Reasoning that is closed at its budget."""
    body = _chat(tier, text, max_tokens=TOKENS, thinking_token_budget=BUDGET_TOKENS)
    return Ask("budget", CHAT, {**body, "ignore_eos": True}, lambda stream: _within(stream, TOKENS))


def structured(tier: Tier, text: str) -> Ask:
    """JSON behind a grammar, cut by the limit or not."""
    form = {"type": "json_schema", "json_schema": {"name": "found", "schema": SCHEMA}}
    body = _chat(tier, text, max_tokens=JSON_TOKENS, response_format=form)
    return Ask("json", CHAT, body, _is_json)


def logprobs(tier: Tier, text: str) -> Ask:
    body = _chat(tier, text, max_tokens=TOKENS, ignore_eos=True, logprobs=True)
    return Ask("logprobs", CHAT, body)


def completion(tier: Tier, text: str) -> Ask:
    body = {"model": tier.value, "prompt": text, "max_tokens": TOKENS, "ignore_eos": True}
    return Ask("completions", COMPLETIONS, {**body, **COUNTED})


def message(tier: Tier, text: str) -> Ask:
    body = {"model": tier.value, "messages": [{"role": "user", "content": text}]}
    more = {"max_tokens": TOKENS, "stream": True, "temperature": 0}
    return Ask("messages", MESSAGES, {**body, **more})


_MAKERS = (plain, budget, structured, plain, completion, logprobs, plain, message)


def _within(stream: Stream, limit: int) -> bool:
    return (stream.usage or {}).get("completion_tokens", limit + 1) <= limit


def _is_json(stream: Stream) -> bool:
    try:
        found = json.loads(stream.text.get("0.content", ""))
    except ValueError:
        return False
    return isinstance(found, dict)
