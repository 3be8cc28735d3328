"""The generating routes: what their bodies and answers call things."""

from dataclasses import dataclass


# Each is made once, here, so identity tells them apart.
@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A generating route. `limit_fields`: the names under which its schema limits new tokens,
    the first being the one that the tier's default is written to (None: keep the schema's).
    `ending` is a key of the last event that tells of an answer; a quote inside a JSON string is
    escaped."""

    name: str
    path: str
    limit_fields: tuple[str, ...]
    default_limit_field: str | None
    thought_twice: bool = False
    anthropic: bool = False
    ending: bytes | None = None


CHAT_COMPLETIONS = Endpoint(
    "chat.completions",
    "/v1/chat/completions",
    ("max_completion_tokens", "max_tokens"),
    "max_completion_tokens",
    thought_twice=True,
    ending=b'"finish_reason":"',
)
COMPLETIONS = Endpoint(
    "completions",
    "/v1/completions",
    ("max_tokens",),
    # The legacy endpoint's own default is 16 tokens, and unchanged clients rely on it.
    None,
    ending=b'"finish_reason":"',
)
RESPONSES = Endpoint(
    "responses",
    "/v1/responses",
    ("max_output_tokens",),
    "max_output_tokens",
    ending=b'"type":"response.completed"',
)
MESSAGES = Endpoint(
    "messages",
    "/v1/messages",
    ("max_tokens",),
    "max_tokens",
    anthropic=True,
    # Its `stop_reason` is null where vLLM has no word of Anthropic's for it.
    ending=b'"type":"message_delta"',
)

GENERATING = {
    endpoint.path: endpoint for endpoint in (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, MESSAGES)
}


def generating_endpoint(path: str) -> Endpoint | None:
    """The endpoint at a path below the tier's prefix; the bare prefix is a chat completion."""
    if path in ("", "/"):
        return CHAT_COMPLETIONS
    return GENERATING.get(path)
