"""vLLM's words for a body that does not fit its schema, as a sentence that names the field.

pydantic tries every type that a field may have, and reports of each; the reports are Python.
"""

import re

# As vLLM prints the errors of a body, one in a line; and as pydantic prints those of a part that
# vLLM reads later.
_OF_BODY = re.compile(
    r"'loc': (?P<quote>['\"])(?P<loc>.*?)(?P=quote), 'msg': (?P<mark>['\"])(?P<msg>.*?)(?P=mark)"
    r", 'input'"
)
_OF_PART = re.compile(r"^(?P<loc>\S+)\n  (?P<msg>.*?)(?: \[type=.*)?$", re.MULTILINE)
_COUNT = re.compile(r"^\d+ validation errors?\b")
_FIELD = re.compile(r"[a-z_][a-z0-9_]*|\d+")
# Kinds of values and steps of pydantic's own, which stand between the fields of a place.
_NO_FIELDS = frozenset({"str", "int", "float", "bool", "list", "dict", "none", "nullable", "chain"})
MOST_REASONS = 3
# A message repeats what a client sent, megabytes of it: no pattern is tried on more than this.
MOST_CHARS = 20_000
# vLLM cuts each of its lines after a thousand.
MOST_LINE_CHARS = 1200
_PARAMETER = " (parameter="


def in_plain_words(message: str, param: str | None) -> tuple[str, str | None]:
    """The message and the field of an error of vLLM's. Where it is no such error, only what vLLM
    adds of its own is taken off its end."""
    field = None if param is None else param.removeprefix("body.")
    if message.endswith(")") and (at := message.rfind(_PARAMETER)) >= 0:
        message = message[:at]
    message = message[:MOST_CHARS]
    if not _COUNT.match(message):
        return message, field
    lines = (_OF_BODY.search(line[:MOST_LINE_CHARS]) for line in message.splitlines())
    found = [line for line in lines if line is not None] or [*_OF_PART.finditer(message)]
    places = [(_place(each["loc"]), _reason(each["msg"])) for each in found]
    if not places:
        return "The body does not fit the endpoint's schema.", field
    # What went deepest into the body is the type that was meant.
    deepest = max((place for place, _ in places), key=lambda place: place.count("."))
    reasons = [reason for place, reason in places if place == deepest]
    reasons = [*dict.fromkeys(reasons)][:MOST_REASONS]
    if not deepest:
        return f"The body does not fit the endpoint's schema: {' or: '.join(reasons)}.", field
    return f"`{deepest}`: {' or: '.join(reasons)}.", deepest


def _place(loc: str) -> str:
    parts = loc.removeprefix("body.").split(".")
    return ".".join(part for part in parts if _FIELD.fullmatch(part) and part not in _NO_FIELDS)


def _reason(text: str) -> str:
    return text.removeprefix("Value error, ").replace("\\'", "'").strip(" .")
