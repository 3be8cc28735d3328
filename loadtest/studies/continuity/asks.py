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
# What a reasoning budget, and a structure, takes of them.
BUDGET_SHARE, STRUCTURE_SHARE, LEAST_SHARE = 0.3, 0.6, 0.8
SCHEMA = {
    "type": "object",
    "properties": {
        "thing": {"type": "string", "maxLength": 40},
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 12, "maxItems": 60},
    },
    "required": ["thing", "numbers"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "note", "description": "Notes a finding", "parameters": SCHEMA},
}
CHOICE = {"type": "function", "function": {"name": "note"}}
COUNTED = {"stream": True, "temperature": 0, "stream_options": {"include_usage": True}}
# As good as greedy, which vLLM refuses where one request has several answers.
GREEDY = {"temperature": 1.0, "top_k": 1, "seed": 3}
# One of them comes soon, whatever is written about.
STOPS = ["e", "1", "\n"]


def asks(tier: Tier, count: int, seed: int, tokens: int = TOKENS) -> list[Ask]:
    """Of each kind in turn, of so many tokens at most; the same `seed` gives the same requests."""
    problems = held_out_problems(seed, max(count, 1))
    rng = random.Random(seed)
    return [
        _MAKERS[number % len(_MAKERS)](tier, f"{problem.text} ({rng.randrange(10**6)})", tokens)
        for number, problem in enumerate(problems[:count])
    ]


def _chat(tier: Tier, text: str, tokens: int, **more: Any) -> Mapping[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": tier.value, "messages": messages, "max_tokens": tokens, **COUNTED, **more}


def plain(tier: Tier, text: str, tokens: int) -> Ask:
    """Reasoning, answer and what comes after it."""
    return Ask("text", CHAT, _chat(tier, text, tokens, ignore_eos=True))


def budget(tier: Tier, text: str, tokens: int) -> Ask:
    """Reasoning that is closed at its budget."""
    budget_tokens = round(BUDGET_SHARE * tokens)
    body = _chat(tier, text, tokens, thinking_token_budget=budget_tokens, ignore_eos=True)
    return Ask("budget", CHAT, body, lambda stream: _within(stream, tokens, budget_tokens))


def structured(tier: Tier, text: str, tokens: int) -> Ask:
    """JSON behind a grammar, cut by the limit or not."""
    form = {"type": "json_schema", "json_schema": {"name": "found", "schema": SCHEMA}}
    limit = round(STRUCTURE_SHARE * tokens)
    return Ask("json", CHAT, _chat(tier, text, limit, response_format=form), _is_json)


def tool(tier: Tier, text: str, tokens: int) -> Ask:
    """A call whose arguments are behind a grammar."""
    body = _chat(tier, text, tokens, tools=[TOOL], tool_choice=CHOICE)
    return Ask("tools", CHAT, body, _is_call)


def two_answers(tier: Tier, text: str, tokens: int) -> Ask:
    body = _chat(tier, text, tokens, ignore_eos=True, n=2)
    return Ask("n = 2", CHAT, {**body, **GREEDY}, _has_two)


def stopped(tier: Tier, text: str, tokens: int) -> Ask:
    """Ends by a stop string, which counts from the least number of tokens on."""
    least = round(LEAST_SHARE * tokens)
    body = _chat(tier, text, tokens, ignore_eos=True, stop=STOPS, min_tokens=least)
    return Ask("stop strings", CHAT, body, lambda stream: _within(stream, tokens))


def logprobs(tier: Tier, text: str, tokens: int) -> Ask:
    return Ask("logprobs", CHAT, _chat(tier, text, tokens, ignore_eos=True, logprobs=True))


def completion(tier: Tier, text: str, tokens: int) -> Ask:
    body = {"model": tier.value, "prompt": text, "max_tokens": tokens, "ignore_eos": True}
    return Ask("completions", COMPLETIONS, {**body, **COUNTED})


def message(tier: Tier, text: str, tokens: int) -> Ask:
    body = {"model": tier.value, "messages": [{"role": "user", "content": text}]}
    more = {"max_tokens": tokens, "stream": True, "temperature": 0}
    return Ask("messages", MESSAGES, {**body, **more})


_MAKERS = (
    *(plain, budget, structured, two_answers, tool, stopped, logprobs, completion),
    *(plain, budget, structured, message),
)


def _within(stream: Stream, limit: int, reasoning_limit: int | None = None) -> bool:
    usage = stream.usage or {}
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    within = reasoning_limit is None or reasoning <= reasoning_limit
    return within and usage.get("completion_tokens", limit + 1) <= limit


def _has_two(stream: Stream) -> bool:
    return {"0.finish_reason", "1.finish_reason"} <= stream.text.keys()


def _is_json(stream: Stream) -> bool:
    return _is_object(stream.text.get("0.content", ""))


def _is_call(stream: Stream) -> bool:
    return stream.text.get("0.call0.name") == "note" and _is_object(
        stream.text.get("0.call0.arguments", "")
    )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
