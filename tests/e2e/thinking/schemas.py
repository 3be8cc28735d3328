"""JSON schemas of every kind that applications ask for, the same at each run."""

import random
from typing import Any

NAMES = ("name", "age", "city", "ok", "price", "tags", "owner", "unit", "count", "note")
WORDS = ("red", "green", "blue", "small", "large")


def schemas(count: int, seed: int = 7) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [_object(rng, depth=2) for _ in range(count)]


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(1, 4))
    properties = {name: _value(rng, depth - 1) for name in names}
    required = [name for name in names if rng.random() < 0.8] or names[:1]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _value(rng: random.Random, depth: int) -> dict[str, Any]:
    kinds = ["integer", "bounded", "number", "boolean", "string", "short", "enum", "nullable"]
    kind = rng.choice([*kinds, *(["object", "array"] if depth > 0 else [])])
    match kind:
        case "bounded":
            return {"type": "integer", "minimum": 0, "maximum": rng.choice((9, 120, 5000))}
        case "short":
            return {"type": "string", "maxLength": rng.randint(3, 20)}
        case "enum":
            return {"enum": rng.sample(WORDS, 3)}
        case "nullable":
            return {"anyOf": [{"type": "integer"}, {"type": "null"}]}
        case "object":
            return _object(rng, depth)
        case "array":
            return {"type": "array", "items": _value(rng, 0), "maxItems": rng.randint(1, 4)}
        case _:
            return {"type": kind}
