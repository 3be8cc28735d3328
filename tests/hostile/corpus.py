"""Bad requests without end, made from our own OpenAPI document: the same for the same seed.

Schemathesis makes some hundred requests for each operation, such as keep the document and such as
do not. Each is then spoiled in one or more places, which costs microseconds where schemathesis
takes milliseconds.
"""

import copy
import json
import random
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode

SLOWNESS = [
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
]
# Requests of each operation and mode that schemathesis makes.
EXAMPLES = 40
# Valid ones among them are answered, so they must be short.
SHORT = {"max_tokens": 1, "max_output_tokens": 1, "max_completion_tokens": 1}
TOKENS = frozenset(SHORT)
JUNK: Sequence[Any] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    2**31,
    2**63,
    2**64,
    -(2**64),
    10**30,
    1e300,
    5e-324,
    "",
    "x",
    "\x00",
    "\ud800",
    "é" * 100,
    "a" * 20_000,
    "../../etc/passwd",
    "{{ 7 * 7 }}",
    "%s%n",
    "1",
    "true",
    [],
    {},
    [None],
    [[]],
    [{}],
    {"": ""},
    {"a": None},
    [1, "a", None, {}],
    {"type": "nonsense"},
    {"type": None},
    {"$ref": "#"},
    {"__class__": "os"},
    ["a"] * 300,
    {str(number): number for number in range(300)},
)
# As it stands in a body, where JSON's own writer would not put it.
LITERALS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 5000, b"[" * 3000)
MARK = "@literal@"


@dataclass(frozen=True, slots=True)
class BadRequest:
    method: str
    path: str
    body: bytes
    content_type: str = "application/json"

    def curl(self, url: str, file: str | None = None) -> str:
        """What to type to send it again; `file` has its body, where that is long."""
        body = f"@{file}" if file is not None else self.body.decode(errors="backslashreplace")
        words = ["curl", "-s", "-X", self.method, "-H", f"content-type: {self.content_type}"]
        return shlex.join([*words, "--data-binary", body, url + self.path])


def generated(document: Mapping[str, Any], number: int, below: str) -> list[BadRequest]:
    """What schemathesis makes of each operation below a path that takes a body."""
    schema = schemathesis.openapi.from_dict(dict(document))
    requests: list[BadRequest] = []
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # pyright: ignore[reportAttributeAccessIssue]
        if operation.method.upper() != "POST" or not operation.path.startswith(below):
            continue
        for mode in (GenerationMode.NEGATIVE, GenerationMode.POSITIVE):
            requests += _of_operation(operation, mode, number)
    return requests


def _of_operation(operation: Any, mode: GenerationMode, number: int) -> list[BadRequest]:
    found: list[BadRequest] = []

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=SLOWNESS,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def take(case: Any) -> None:
        body = case.body
        sent = body if isinstance(body, bytes) else _written(body)
        path = case.formatted_path
        found.append(BadRequest("POST", path, sent))

    take()
    return found


def _written(body: Any) -> bytes:
    """Objects keep short whatever else is in them."""
    if isinstance(body, dict):
        body = body | {field: 1 for field in TOKENS & body.keys()}
    try:
        return json.dumps(body).encode()
    except (TypeError, ValueError):
        return b"null"


def bad_requests(
    document: Mapping[str, Any],
    made: Sequence[BadRequest],
    bases: Mapping[str, Mapping[str, Any]],
    number: int,
) -> Iterator[BadRequest]:
    """Endless: those that schemathesis `made`, then such as are spoiled. `bases` has a good body
    for each path: what is spoiled is otherwise right, so that it comes further than to the first
    check."""
    rng = random.Random(number)
    yield from made
    fields = {path: _fields(document, path) for path in bases}
    parsed = [(request, body) for request in made if (body := _object(request.body)) is not None]
    for path in cycle(bases):
        base = {**bases[path]}
        # Every field of the document in turn, with something that it is not.
        for _ in range(8):
            changed = copy.deepcopy(base)
            for field in rng.choices(fields[path], k=rng.choice((1, 1, 1, 2, 3))):
                changed[field] = rng.choice(JUNK)
            yield _request(rng, path, changed)
        for _ in range(4):
            yield _request(rng, path, _spoiled(rng, copy.deepcopy(base)))
        request, body = rng.choice(parsed)
        yield _request(rng, request.path, _spoiled(rng, copy.deepcopy(body)))
        yield BadRequest("POST", path, _damaged(rng, json.dumps(base).encode()))


def _request(rng: random.Random, path: str, body: Any) -> BadRequest:
    if isinstance(body, dict):
        for field in TOKENS & body.keys():
            value = body[field]
            # A good number of tokens would only take time.
            if isinstance(value, int) and 1 < value <= 4096:
                body[field] = 1
    sent = json.dumps(body).encode()
    if rng.random() < 0.05:
        sent = _with_literal(rng, body)
    return BadRequest("POST", path, sent)


def _with_literal(rng: random.Random, body: Any) -> bytes:
    if isinstance(body, dict) and body:
        body = body | {rng.choice([*body]): MARK}
    return json.dumps(body).encode().replace(f'"{MARK}"'.encode(), rng.choice(LITERALS))


def _spoiled(rng: random.Random, value: Any) -> Any:
    """Another value somewhere inside: of a wrong type, missing, doubled, nested."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice([*value])
        action = rng.random()
        if action < 0.15:
            del value[key]
        elif action < 0.25:
            value[rng.choice(("", key.upper(), key + "s", "\x00", "a" * 3000))] = value.pop(key)
        else:
            value[key] = _spoiled(rng, value[key])
        return value
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value * rng.choice((2, 100))
        value[place] = _spoiled(rng, value[place])
        return value
    if rng.random() < 0.1:
        for _ in range(rng.choice((1, 5, 100))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value
    return copy.deepcopy(rng.choice(JUNK))


def _damaged(rng: random.Random, body: bytes) -> bytes:
    """Some bytes of it changed, cut out, or put in."""
    damaged = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 10))):
        place = rng.randrange(len(damaged))
        match rng.randrange(4):
            case 0:
                damaged[place] = rng.randrange(256)
            case 1:
                del damaged[place : place + rng.randrange(1, 20)]
            case 2:
                damaged[place:place] = rng.randbytes(rng.randrange(1, 8))
            case _:
                del damaged[place:]
        if not damaged:
            return b""
    return bytes(damaged)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _fields(document: Mapping[str, Any], path: str) -> list[str]:
    """The names that the document has for a route's body."""
    operation = document["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return sorted(_properties(document, schema)) or ["messages"]


def _properties(document: Mapping[str, Any], schema: Mapping[str, Any]) -> set[str]:
    if reference := schema.get("$ref"):
        return _properties(document, document["components"]["schemas"][reference.split("/")[-1]])
    names = set(schema.get("properties", {}))
    for part in (*schema.get("anyOf", ()), *schema.get("allOf", ()), *schema.get("oneOf", ())):
        names |= _properties(document, part)
    return names
