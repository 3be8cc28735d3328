"""What of a schema, regular expression or grammar is refused before anything is compiled of it.

Cheap and iterative: what is looked at comes from strangers and may be nested without end.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

# vLLM's processes hand each other msgpack, which knows integers of 64 bits.
LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**64 - 1
# Below these keywords stands data, in which nothing is a reference or a pattern.
_DATA = frozenset({"const", "enum", "default", "example", "examples"})
# Below these stand names that the client has made up, and no keywords.
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
# Of a schema, and of the formats that a structural tag is made of.
_PATTERNS = frozenset({"pattern", "regex", "grammar"})
_OPENING, _CLOSING = "([{", ")]}"
_BRACKETS = re.compile(r"\\.|[()\[\]{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SchemaLimits:
    """`max_nesting` holds for objects and arrays, and for brackets inside patterns and grammars."""

    max_bytes: int = 256 * 1024
    max_nesting: int = 64
    max_nodes: int = 20_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """The limit that was met, as an error's `code`, and a sentence for the client."""

    code: str
    message: str


def refusal_of_schema(schema: object, limits: SchemaLimits) -> Refusal | None:
    """None where a parsed JSON schema, or structural tag, keeps all limits."""
    size_bytes = 0
    for nodes, (key, value, depth, data) in enumerate(_walk(schema), 1):
        if nodes > limits.max_nodes:
            return _too_many(limits)
        if depth > limits.max_nesting:
            return _too_deep("objects and arrays", limits)
        if isinstance(value, str):
            refusal = None if data else _refusal_of_string(key, value, limits)
            if refusal is not None:
                return refusal
        size_bytes += _size_bytes(value) + (0 if key is None else len(key) + 3)
        if size_bytes > limits.max_bytes:
            return _too_large(limits)
        if isinstance(value, int) and not LEAST_INTEGER <= value <= MOST_INTEGER:
            return Refusal("structure_integer_too_large", "An integer takes more than 64 bits.")
        refusal = _refusal_of_pattern_keys(key, value, limits)
        if refusal is not None:
            return refusal
    return None


def refusal_of_draft(schema: object) -> Refusal | None:
    """None where a parsed schema within the limits keeps to JSON Schema 2020-12 in what earlier
    drafts wrote otherwise, with words for what it should be."""
    for key, value, _, data in _walk(schema):
        if data:
            continue
        # A list of names is none of schemas: a property may be called `items`.
        if key == "items" and isinstance(value, list) and not _are_texts(cast(list[object], value)):
            return Refusal(
                "structure_unsupported",
                "`items` is a list of schemas, as draft 7 of JSON Schema has it: call the list "
                "`prefixItems`, and what was `additionalItems` `items`.",
            )
        if key in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool):
            return Refusal(
                "structure_unsupported",
                f"`{key}` is true or false, as draft 4 of JSON Schema has it: give the number.",
            )
    return None


def refusal_of_text(text: str, limits: SchemaLimits) -> Refusal | None:
    """None where a regular expression or a grammar keeps all limits."""
    if len(text) > limits.max_bytes:
        return _too_large(limits)
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        return Refusal("structure_invalid", "It holds half of a surrogate pair, which is no text.")
    if size_bytes > limits.max_bytes:
        return _too_large(limits)
    if "\x00" in text:
        return Refusal("structure_invalid", "It holds a NUL character.")
    if bracket_nesting(text) > limits.max_nesting:
        return _too_deep("brackets", limits)
    return None


def refusal_of_choices(choices: object, limits: SchemaLimits) -> Refusal | None:
    """None where a list of texts to choose from keeps all limits."""
    if not isinstance(choices, list) or not choices:
        return Refusal("structure_invalid", "It must be a list of texts, and not an empty one.")
    asked = cast(list[object], choices)
    if len(asked) > limits.max_nodes:
        return _too_many(limits)
    texts = [choice for choice in asked if isinstance(choice, str)]
    if len(texts) < len(asked):
        return Refusal("structure_invalid", "Each choice must be a text.")
    try:
        size_bytes = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError:
        return Refusal("structure_invalid", "It holds half of a surrogate pair, which is no text.")
    return _too_large(limits) if size_bytes > limits.max_bytes else None


def bracket_nesting(text: str) -> int:
    """How deep brackets nest. An escaped one counts for nothing; one inside a text of a grammar
    does, since a regular expression knows no quotes."""
    depth = deepest = 0
    for sign in _BRACKETS.findall(text):
        if sign in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif sign in _CLOSING and depth > 0:
            depth -= 1
    return deepest


def _walk(schema: object) -> Iterator[tuple[str | None, object, int, bool]]:
    """Each value with its key, its depth, and whether it is data."""
    waiting: list[tuple[str | None, object, int, bool]] = [(None, schema, 0, False)]
    while waiting:
        key, value, depth, data = item = waiting.pop()
        yield item
        if isinstance(value, dict):
            keywords = key not in _NAMED
            for name, part in cast(dict[str, object], value).items():
                waiting.append((name, part, depth + 1, data or (keywords and name in _DATA)))
        elif isinstance(value, list):
            waiting += [(key, part, depth + 1, data) for part in cast(list[object], value)]


def _size_bytes(value: object) -> int:
    """As JSON, roughly."""
    return len(value) + 3 if isinstance(value, str) else 5


def _refusal_of_string(key: str | None, value: str, limits: SchemaLimits) -> Refusal | None:
    if key in _REFERENCES and not value.startswith("#"):
        return Refusal(
            "structure_reference",
            f"`{key}` must begin with `#`: what lies outside of the schema is not fetched.",
        )
    if key in _PATTERNS:
        return refusal_of_text(value, limits)
    return None


def _refusal_of_pattern_keys(
    key: str | None, value: object, limits: SchemaLimits
) -> Refusal | None:
    if key != "patternProperties" or not isinstance(value, dict):
        return None
    refusals = (refusal_of_text(pattern, limits) for pattern in cast(dict[str, object], value))
    return next((refusal for refusal in refusals if refusal is not None), None)


def _are_texts(values: list[object]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def _too_large(limits: SchemaLimits) -> Refusal:
    return Refusal(
        "structure_too_large", f"It is larger than {limits.max_bytes:,} bytes, which is the limit."
    )


def _too_deep(what: str, limits: SchemaLimits) -> Refusal:
    return Refusal(
        "structure_too_deep",
        f"Its {what} nest deeper than {limits.max_nesting} levels, which is the limit.",
    )


def _too_many(limits: SchemaLimits) -> Refusal:
    return Refusal(
        "structure_too_many_values",
        f"It has more than {limits.max_nodes:,} values, which is the limit.",
    )
