"""vLLM's words for a body that does not fit its schema, as a sentence that names the field.

pydantic tries every type that a field may have, and reports of each; the reports are Python.
"""

import re
from collections.abc import Sequence

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
MOST_REASONS, MOST_NAME_CHARS = 3, 200
# A message repeats what a client sent, megabytes of it: no pattern is tried on more than this.
MOST_CHARS = 20_000
# vLLM cuts each of its lines after a thousand.
MOST_LINE_CHARS = 1200
_PARAMETER = " (parameter="
# vLLM's sentences begin with the field, but name it as the error's in few of them.
_BEGINS_WITH_FIELD = re.compile(
    r"`?(?P<field>[a-z_]+(?:\.[a-z_]+)*)`? (?:must|cannot|should|is|contains?|entries) "
)
_FIELDS_OF_SAMPLING = frozenset(
    {
        *("n", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty"),
        *("max_tokens", "min_tokens", "logprobs", "prompt_logprobs", "logprob_token_ids"),
        *("bad_words", "logit_bias", "allowed_token_ids", "stream_interval", "truncation_side"),
        *("messages", "prompt", "input", "tools", "tool_choice", "thinking_token_budget"),
        *("max_pattern_size", "min_count", "vllm_xargs", "truncate_prompt_tokens", "suffix"),
        *("structured_outputs.json", "structured_outputs.regex", "structured_outputs.choice"),
        *("structured_outputs.grammar", "structured_outputs.json_object"),
        "structured_outputs.structural_tag",
    }
)
# Words of Python's own errors, which tell a client nothing.
_PYTHON = re.compile(
    r"'?NoneType'?|\bobject is not (?:iterable|callable|subscriptable)|<class '|\bunhashable type|"
    r"object has no attribute|\bNone\b|indices must be integers|argument of type|"
    r"unexpected keyword|ValidatorIterator|\b(?:Key|Value|Type|Attribute)Error\b|^'[^']*'$"
)
# A value as Python writes it, inside the marks of a quotation.
_RAW_VALUE = re.compile(r"`[\[{(][^`]*'[^`]*`")
_RAW_TAIL = re.compile(r"[:.]?(?: Got \w+=| )[\[{]'.*[\]}]\.?$", re.DOTALL)
_QUOTED = re.compile(r"`[^`]*`")
_FIELD_OF_BEGIN = {
    "You must pass at least one prompt": "prompt",
    "Cannot apply chat template to an empty": "messages",
    "You can only use one kind of constraints": "structured_outputs",
    "You must use one kind of structured outputs": "structured_outputs",
    "Cannot set both `continue_final_message`": "continue_final_message",
}
_NO_MODEL = re.compile(
    r"^The model `(?P<name>.*)` does not exist\. Valid aliases: (?P<served>.*)\.$"
)
_NO_FIT = "The body does not fit the endpoint's schema"


def in_plain_words(message: str, param: str | None) -> tuple[str, str | None]:
    """The message and the field of an error of vLLM's. Where it is no such error, only what vLLM
    adds of its own is taken off its end."""
    field = None if param is None else param.removeprefix("body.")
    if message.endswith(")") and (at := message.rfind(_PARAMETER)) >= 0:
        message = message[:at]
    message = message[:MOST_CHARS]
    if not _COUNT.match(message):
        field = field or _field_in(message)
        return _without_python(message, field), field
    lines = (_OF_BODY.search(line[:MOST_LINE_CHARS]) for line in message.splitlines())
    found = [line for line in lines if line is not None] or [*_OF_PART.finditer(message)]
    places = [(_place(each["loc"]), _reason(each["msg"])) for each in found]
    if not places:
        return f"{_NO_FIT}.", field
    # What went deepest into the body is the type that was meant.
    deepest = max((place for place, _ in places), key=_depth)
    reasons = [reason for place, reason in places if place == deepest]
    reasons = [*dict.fromkeys(reasons)][:MOST_REASONS]
    if not deepest:
        return f"{_NO_FIT}: {' or: '.join(reasons)}.", field
    return f"`{deepest}`: {' or: '.join(reasons)}.", deepest


def models_named(message: str, tiers: Sequence[str]) -> str:
    """vLLM's error of a model that is not served, with all names that there are: those of a tier's
    own routes, and of `/v1`, where the other tier has its name too."""
    match = _NO_MODEL.match(message[:MOST_CHARS])
    if match is None:
        return message
    served = match["served"].split(", ")
    own = next((name for name in served if name in tiers), None)
    names = ", ".join(f"`{name}`" for name in dict.fromkeys([*tiers, *served]))
    below = "" if own is None else f"; /api/{own} has {', '.join(f'`{name}`' for name in served)}"
    return f"The model `{match['name'][:MOST_NAME_CHARS]}` does not exist. /v1 has {names}{below}."


def _place(loc: str) -> str:
    """As a client would write it: `messages[0].content`."""
    parts = loc.removeprefix("body.").split(".")
    kept = [part for part in parts if _FIELD.fullmatch(part) and part not in _NO_FIELDS]
    place = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in kept)
    return place.removeprefix(".")


def _depth(place: str) -> int:
    return place.count(".") + place.count("[")


def _without_python(message: str, field: str | None) -> str:
    message = _RAW_TAIL.sub(".", message)
    if _PYTHON.search(_QUOTED.sub("", message)):
        subject = "a value" if field is None else f"`{field}`"
        return f"{_NO_FIT}: {subject} is missing, empty, or of another type (GET /openapi.json)."
    return _RAW_VALUE.sub("this value", message)


def _field_in(message: str) -> str | None:
    match = _BEGINS_WITH_FIELD.match(message)
    field = None if match is None else match["field"]
    if field in _FIELDS_OF_SAMPLING:
        return field
    return next((of for begin, of in _FIELD_OF_BEGIN.items() if message.startswith(begin)), None)


def _reason(text: str) -> str:
    plain = text.removeprefix("Value error, ").replace("\\'", "'").replace("dictionary", "object")
    return plain.strip(" .")
