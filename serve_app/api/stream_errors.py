"""Errors that vLLM sends as an event of a stream, after its status has been sent."""

import json
from dataclasses import dataclass
from http import HTTPStatus

from serve_app.api.endpoints import RESPONSES, Endpoint

_OPENAI = b'data: {"error":'
_ANTHROPIC = b"event: error\n"


@dataclass(frozen=True, slots=True)
class StreamError:
    """The status that vLLM would have answered with, and its body."""

    status: int
    body: bytes


def error_in(event: bytes) -> StreamError | None:
    """The error that this event is; None for all others, at the cost of a look at its begin."""
    if not event.startswith((_OPENAI, _ANTHROPIC)):
        return None
    lines = (line for line in event.split(b"\n") if line.startswith(b"data: "))
    data = next(lines, b"")[6:]
    try:
        error = json.loads(data)["error"]
        code = error.get("code")
    except (ValueError, TypeError, KeyError, AttributeError):
        return StreamError(HTTPStatus.INTERNAL_SERVER_ERROR, data)
    if not isinstance(code, int) or not 400 <= code < 600:
        code = _STATUS_OF_TYPE.get(str(error.get("type")), HTTPStatus.INTERNAL_SERVER_ERROR)
    return StreamError(code, data)


def error_event(body: bytes, endpoint: Endpoint, *, number: int = 0, last: bool = True) -> bytes:
    """An error as an event of a stream. Anthropic's clients take it by the event's name, OpenAI's
    by its data, and those of Responses by both; they count a stream's events."""
    if endpoint.anthropic:
        return b"event: error\ndata: " + body + b"\n\n"
    if endpoint is not RESPONSES:
        return b"data: " + body + b"\n\n" + (b"data: [DONE]\n\n" if last else b"")
    error = json.loads(body)["error"]
    told = {name: error.get(name) for name in ("code", "message", "param")}
    event = json.dumps({"type": "error", **told, "sequence_number": number}, separators=(",", ":"))
    return b"event: error\ndata: " + event.encode() + b"\n\n"


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
