"""The kinds of requests that a soak mixes, and the bodies that they have."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.load.prompts import PromptWriter
from loadtest.load.scenario import Load, Poisson, Scenario, Slo, Tokens, Uniform
from loadtest.load.server import Target

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
        # A thought takes three quarters of it, and a call has to fit into the rest.
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
    document: dict[str, Any] = {
        "model": target.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": answer,
        # What is not deterministic is not kept, so that the questions alone fill the cache.
        "temperature": 0 if kind.repeats else 0.6,
        "stream": kind.stream,
        "ignore_eos": kind.exact,
        **kind.extra,
    }
    if kind.stream:
        document["stream_options"] = {"include_usage": True}
    if kind.wrong:
        document |= WRONG[number % len(WRONG)]
    return json.dumps(document).encode()
