"""Fields without end: names that nobody knows, and what is looked up for each of them."""

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from tests.hostile.attack import CHAT, USER, Attack, Target
from tests.hostile.wire import as_json

ROUTES: Mapping[str, dict[str, object]] = {
    CHAT: {"messages": USER, "max_tokens": 1},
    f"{CHAT}/v1/completions": {"prompt": "hi", "max_tokens": 1},
    f"{CHAT}/v1/responses": {"input": "hi", "max_output_tokens": 1},
    f"{CHAT}/v1/messages": {"messages": USER, "max_tokens": 1},
    "/v1/chat/completions": {"model": "chat", "messages": USER, "max_tokens": 1},
}


def anagrams(word: str, count: int) -> list[str]:
    """As many orders of its letters, the same at each run."""
    rng = random.Random(7)
    letters = [*word]
    found: set[str] = set()
    while len(found) < count:
        rng.shuffle(letters)
        found.add("".join(letters))
    return sorted(found)


def _variants(word: str, count: int) -> list[str]:
    """Every one similar enough to be meant."""
    tails = itertools.product("abcdefghijklmnopqrstuvwxyz0123456789_", repeat=3)
    return [word + "".join(tail) for tail in itertools.islice(tails, count)]


Names = Callable[[], list[str]]
NAMES: Mapping[str, Names] = {
    "200,000 unknown fields": lambda: [f"field_{number}" for number in range(200_000)],
    "70,000 anagrams of request_id": lambda: anagrams("request_id", 69_916),
    "100,000 anagrams of temperature": lambda: anagrams("temperature", 100_000),
    "50,000 beginnings like max_tokens": lambda: _variants("max_tokens", 50_000),
    "50,000 like a long known name": lambda: _variants("include_stop_str_in_output", 50_000),
    "2,700 names of blanks": lambda: [" " * number for number in range(1, 2700)],
    "names of other alphabets": lambda: [
        "\uff4dax_tokens" + chr(0x4E00 + n) for n in range(20_000)
    ],
    "names with surrogates": lambda: [f"max_tokens\ud800{number}" for number in range(20_000)],
    "names with NUL": lambda: [f"max\x00tokens{number}" for number in range(20_000)],
    "one name of 3.9 MB": lambda: ["max_tokens" * 390_000],
    "40 names of 100 KB": lambda: ["request_id" * 10_000 + str(number) for number in range(40)],
    "4,000 names of 1 KB": lambda: ["temperature" * 90 + str(number) for number in range(4000)],
    "16 unknown fields": lambda: [f"metadata_{number}" for number in range(16)],
}


def _known_twice() -> bytes:
    """The same known field, over and over: JSON's last one counts."""
    return b'{"messages":[{"role":"user","content":"hi"}],%b"max_tokens":1}' % (
        b'"max_tokens":1,' * 250_000
    )


def _many(field: str, count: int = 200_000) -> Callable[[], bytes]:
    return lambda: as_json(
        {"messages": USER, "max_tokens": 1, field: {f"key{n}": "v" for n in range(count)}}
    )


INSIDE: Mapping[str, Callable[[], bytes]] = {
    "a known field 250,000 times": _known_twice,
    "metadata": _many("metadata"),
    "vllm_xargs": _many("vllm_xargs"),
    "logit_bias of names": _many("logit_bias"),
    "stream_options": _many("stream_options"),
    "chat_template_kwargs": _many("chat_template_kwargs"),
    "structured_outputs": _many("structured_outputs"),
    "response_format": _many("response_format"),
    "tool_choice": _many("tool_choice"),
    "mm_processor_kwargs": _many("mm_processor_kwargs"),
    "kv_transfer_params": _many("kv_transfer_params"),
    "repetition_detection": _many("repetition_detection"),
    "task of 3 MB": lambda: as_json({"prompt": "hi", "task": "math" * 750_000}),
    "model of 3 MB": lambda: as_json({"prompt": "hi", "model": "chat" * 750_000}),
    "user of 3 MB": lambda: as_json({"prompt": "hi", "max_tokens": 1, "user": "u" * 3_000_000}),
    "cache_salt of 3 MB": lambda: as_json(
        {"prompt": "hi", "max_tokens": 1, "cache_salt": "s" * 3_000_000}
    ),
    "request_id of 3 MB": lambda: as_json(
        {"prompt": "hi", "max_tokens": 1, "request_id": "r" * 3_000_000}
    ),
    "reasoning_effort of 3 MB": lambda: as_json(
        {"prompt": "hi", "reasoning_effort": "low" * 10**6}
    ),
    "a role of 3 MB": lambda: as_json({"messages": [{"role": "user" * 750_000, "content": "hi"}]}),
    "a message of 200,000 fields": lambda: as_json(
        {"messages": [{"role": "user", "content": "hi", **{f"k{n}": 1 for n in range(200_000)}}]}
    ),
    "a part of 200,000 fields": lambda: as_json(
        {"messages": [{"role": "user", "content": [{f"k{n}": 1 for n in range(200_000)}]}]}
    ),
}


def _body(base: dict[str, object], names: Names) -> bytes:
    return json.dumps({**base, **dict.fromkeys(names(), 1)}).encode()


def _attack(name: str, path: str) -> Attack:
    return Attack(f"{name} to {path}", path, lambda: _body(ROUTES[path], NAMES[name]))


def _attacks() -> Iterator[Attack]:
    for name in NAMES:
        yield from (_attack(name, path) for path in ROUTES)
    yield from (Attack(f"many in {name}", CHAT, body) for name, body in INSIDE.items())


ATTACKS = [*_attacks()]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_no_number_of_fields_holds_the_service(target: Target, attack: Attack) -> None:
    target.bear(attack)


@pytest.mark.parametrize("name", [*NAMES][:5])
def test_ten_such_bodies_at_once_hold_nobody(target: Target, name: str) -> None:
    target.bear_all(_made(_attack(name, CHAT), 10), at_once=10)


def test_ten_such_bodies_at_once_hold_nobody_behind_v1(target: Target) -> None:
    attack = _attack("200,000 unknown fields", "/v1/chat/completions")
    target.bear_all(_made(attack, 10), at_once=10)


def _made(attack: Attack, count: int) -> list[Attack]:
    """With a body that is made once, before any is sent."""
    body = attack.body()
    return [replace(attack, body=lambda: body)] * count
