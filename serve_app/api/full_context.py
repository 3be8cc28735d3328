"""A prompt that the engine's context cannot hold, or that leaves no room in it for an answer.

A limit of new tokens that only does not fit beside the prompt is no error: the engine gives what is
left, and the answer ends with `length`.
"""

from serve_app.api.endpoints import COMPLETIONS, RESPONSES, Endpoint
from serve_app.errors import RequestError

CODE = "context_length_exceeded"
# vLLM's words, of its endpoints; agents look for the first ones, which are OpenAI's too.
_TOO_LONG = (
    "This model's maximum context length is",
    "The engine prompt length",
    "Input length (",
)
_NO_ROOM = "max_tokens must be at least 1, got 0"
_FILLED = (
    "The prompt fills the model's whole context, which leaves no token for an answer. Shorten it."
)


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
