"""What a stranger asks to be compiled is bounded, by every way that leads to a compiler."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from typing import Any

import pytest

from tests.hostile.attack import CHAT, REASONING, USER, Attack, Target
from tests.hostile.schemas import (
    ASIDES,
    CHOICES,
    GRAMMARS,
    KILLERS,
    REGEXES,
    SCHEMAS,
    TAGS,
    Making,
    Text,
)

LIMIT_S = 20.0
LIMITED = {"max_tokens": 16, "temperature": 0}
Way = tuple[str, Callable[[Any], dict[str, Any]]]


def _chat(**fields: Any) -> dict[str, Any]:
    return {"messages": USER, **LIMITED, **fields}


def _function(schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


def _format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


NAMED = {"type": "function", "function": {"name": "f"}}
SCHEMA_WAYS: Mapping[str, Way] = {
    "response_format": (CHAT, lambda s: _chat(response_format=_format(s))),
    "strict": (
        REASONING,
        lambda s: _chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": s},
            }
        ),
    ),
    "tools": (CHAT, lambda s: _chat(tools=[_function(s)], tool_choice="required")),
    "named tool": (REASONING, lambda s: _chat(tools=[_function(s)], tool_choice=NAMED)),
    "auto tools": (CHAT, lambda s: _chat(tools=[_function(s)])),
    "structured_outputs": (CHAT, lambda s: _chat(structured_outputs={"json": s})),
    "legacy structured_outputs": (
        f"{CHAT}/v1/completions",
        lambda s: {"prompt": "hi", **LIMITED, "structured_outputs": {"json": s}},
    ),
    "legacy response_format": (
        f"{REASONING}/v1/completions",
        lambda s: {"prompt": "hi", **LIMITED, "response_format": _format(s)},
    ),
    "responses format": (
        f"{CHAT}/v1/responses",
        lambda s: {
            "input": "hi",
            "max_output_tokens": 16,
            "text": {"format": {"type": "json_schema", "name": "x", "schema": s}},
        },
    ),
    "responses tools": (
        f"{CHAT}/v1/responses",
        lambda s: {
            "input": "hi",
            "max_output_tokens": 16,
            "tools": [{"type": "function", "name": "f", "parameters": s}],
            "tool_choice": "required",
        },
    ),
    "messages tools": (
        f"{CHAT}/v1/messages",
        lambda s: _chat(tools=[{"name": "f", "input_schema": s}], tool_choice={"type": "any"}),
    ),
    "structural tag": (
        CHAT,
        lambda s: _chat(
            response_format={
                "type": "structural_tag",
                "structures": [{"begin": "<f>", "schema": s, "end": "</f>"}],
                "triggers": ["<f"],
            }
        ),
    ),
    "/v1": (
        "/v1/chat/completions",
        lambda s: {"model": "reasoning", **_chat(response_format=_format(s))},
    ),
    "stream": (CHAT, lambda s: _chat(response_format=_format(s), stream=True)),
}
REGEX_WAYS: Mapping[str, Way] = {
    "chat": (CHAT, lambda r: _chat(structured_outputs={"regex": r})),
    "legacy": (
        f"{CHAT}/v1/completions",
        lambda r: {"prompt": "hi", **LIMITED, "structured_outputs": {"regex": r}},
    ),
}
GRAMMAR_WAYS: Mapping[str, Way] = {
    "chat": (REASONING, lambda g: _chat(structured_outputs={"grammar": g})),
}
CHOICE_WAYS: Mapping[str, Way] = {
    "chat": (CHAT, lambda c: _chat(structured_outputs={"choice": c})),
}
TAG_WAYS: Mapping[str, Way] = {
    "response_format": (CHAT, lambda t: _chat(response_format=t)),
    "structured_outputs": (
        REASONING,
        lambda t: _chat(structured_outputs={"structural_tag": json.dumps(t)}),
    ),
}
ASIDE_WAYS: Mapping[str, Way] = {"chat": (CHAT, lambda o: _chat(structured_outputs=o))}


def _attack(name: str, way: str, ways: Mapping[str, Way], make: Making) -> Attack:
    path, ask = ways[way]

    def body() -> bytes:
        made = make()
        if isinstance(made, Text):
            return json.dumps(ask("@")).replace('"@"', made).encode()
        return json.dumps(ask(made)).encode()

    return Attack(f"{name} by {way}", path, body, limit_s=LIMIT_S)


def _all_ways(table: Mapping[str, Making], ways: Mapping[str, Way]) -> Iterator[Attack]:
    for name, make in table.items():
        yield from (_attack(name, way, ways, make) for way in ways)


def _in_turn(table: Mapping[str, Making], ways: Mapping[str, Way]) -> Iterator[Attack]:
    """Each by one way, each way for some."""
    for way, (name, make) in zip(cycle(ways), table.items(), strict=False):
        yield _attack(name, way, ways, make)


ATTACKS = [
    *_all_ways(KILLERS, SCHEMA_WAYS),
    *_in_turn(SCHEMAS, SCHEMA_WAYS),
    *_in_turn(REGEXES, REGEX_WAYS),
    *_in_turn(GRAMMARS, GRAMMAR_WAYS),
    *_in_turn(CHOICES, CHOICE_WAYS),
    *_in_turn(TAGS, TAG_WAYS),
    *_in_turn(ASIDES, ASIDE_WAYS),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_structure_is_compiled_within_limits_or_refused(target: Target, attack: Attack) -> None:
    target.bear(attack)


def test_killers_at_once_are_borne_together(target: Target) -> None:
    attacks = [*_all_ways(KILLERS, {"response_format": SCHEMA_WAYS["response_format"]})]
    target.bear_all(attacks * 2, at_once=16)


def test_a_compile_ends_when_its_last_client_leaves(target: Target) -> None:
    """Twenty different slow schemas, each client gone after a moment."""
    slow = KILLERS["enum of 50,000"]()["enum"]
    attacks = [
        Attack(
            f"left after 0.2 s: {number}",
            CHAT,
            lambda number=number: json.dumps(
                _chat(response_format=_format({"enum": [*slow[:20_000], str(number)]}))
            ).encode(),
            limit_s=0.2,
        )
        for number in range(20)
    ]
    for attack in attacks:
        with target.tally.attacking(attack.name):
            answer = attack.send(target.address)
        target.tally.add(attack.name, answer.status or "left", answer.took_s)
    assert not target.deaths()
    target.wait_until_idle(within_s=10)
