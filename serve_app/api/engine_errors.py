"""vLLM's errors as this service's: in plain words, with the field and the code that clients know.

As an event of a stream they come after its status has been sent. Where they are about a body that
does not fit its schema, pydantic has tried every type that a field may have, and reports of each;
the reports are Python. A prompt that the engine's context cannot hold, or that leaves no room in it
for an answer, gets OpenAI's code; a limit of new tokens that only does not fit beside the prompt is
no error: the engine gives what is left, and the answer ends with `length`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from serve_app.api.routes import COMPLETIONS, RESPONSES, Endpoint
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError

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
# Python's own errors, which mean nothing to a client.
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
# vLLM may repeat what it was sent: megabytes of ids that are out of its vocabulary.
MAX_MESSAGE_CHARS = 1000
CODE = "context_length_exceeded"
# As vLLM's endpoints write it; agents look for the first ones, which are OpenAI's too.
_TOO_LONG = (
    "This model's maximum context length is",
    "The engine prompt length",
    "Input length (",
)
_NO_ROOM = "max_tokens must be at least 1, got 0"
_FILLED = (
    "The prompt fills the model's whole context, which leaves no token for an answer. Shorten it."
)
# An event that begins with one of these is an error: OpenAI's form and Anthropic's.
ERROR_STARTS = (b'data: {"error":', b"event: error\n")
# Anthropic's events name the kind alone.
_STATUS_OF_TYPE = {
    "BadRequestError": 400,
    "invalid_request_error": 400,
    "NotFoundError": 404,
    "not_found_error": 404,
    "UnprocessableEntityError": 422,
    "ServiceUnavailableError": 503,
    "overloaded_error": 503,
}


@dataclass(frozen=True, slots=True)
class StreamedError:
    """The status that vLLM would have answered with, and its body."""

    status: int
    body: bytes


def client_error(status: int, body: bytes, endpoint: Endpoint, *, granted: int) -> RequestError:
    """vLLM's error of a request as a client reads it, with a `code` that is text or null;
    `granted` is the most new tokens that the request may get."""
    try:
        error = json.loads(body)["error"]
        message, param = error["message"], error.get("param")
    except (ValueError, TypeError, KeyError):
        message, param = body.decode(errors="replace") or "no details", None
    message, param = in_plain_words(message, param)
    if status == 404 and (named := models_named(message, list(Tier))) != message:
        message, param = named, "model"
    if len(message) > MAX_MESSAGE_CHARS:
        message = f"{message[:MAX_MESSAGE_CHARS]}..."
    code = {400: "invalid_value", 404: "model_not_found"}.get(status)
    error = RequestError(status, message, param=param, code=code)
    return about_context(error, endpoint, granted=granted)


def error_in(event: bytes) -> StreamedError | None:
    """The error that this event is; None for all others, at the cost of a look at its begin."""
    if not event.startswith(ERROR_STARTS):
        return None
    lines = (line for line in event.split(b"\n") if line.startswith(b"data: "))
    data = next(lines, b"")[6:]
    try:
        error = json.loads(data)["error"]
        code = error.get("code")
    except (ValueError, TypeError, KeyError, AttributeError):
        return StreamedError(HTTPStatus.INTERNAL_SERVER_ERROR, data)
    if not isinstance(code, int) or not 400 <= code < 600:
        code = _STATUS_OF_TYPE.get(str(error.get("type")), HTTPStatus.INTERNAL_SERVER_ERROR)
    return StreamedError(code, data)


def error_event(body: bytes, endpoint: Endpoint, *, number: int = 0, last: bool = True) -> bytes:
    """An error as an event of a stream. Anthropic's clients take it by the event's name, OpenAI's
    by its data, and those of Responses by both; they count a stream's events."""
    if endpoint.anthropic:
        return b"event: error\ndata: " + body + b"\n\n"
    if endpoint is not RESPONSES:
        return b"data: " + body + b"\n\n" + (b"data: [DONE]\n\n" if last else b"")
    error = json.loads(body)["error"]
    fields = {name: error.get(name) for name in ("code", "message", "param")}
    event = json.dumps(
        {"type": "error", **fields, "sequence_number": number}, separators=(",", ":")
    )
    return b"event: error\ndata: " + event.encode() + b"\n\n"


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


def about_context(error: RequestError, endpoint: Endpoint, *, granted: int) -> RequestError:
    """vLLM's error with the field and code that clients know, if it is about that; `granted` is
    the most new tokens that the request may get."""
    message = error.message
    if granted > 0 and message.startswith(_NO_ROOM):
        message = _FILLED
    elif not message.startswith(_TOO_LONG):
        return error
    field = {COMPLETIONS: "prompt", RESPONSES: "input"}.get(endpoint, "messages")
    return RequestError(error.status, message, param=field, code=CODE)
