"""How much a request may put into a field: what could fit the context, and what work it causes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.api.field_rules import refuse_no_text
from serve_app.errors import RequestError, invalid

# Fields that make up the prompt, of all endpoints.
PROMPT_FIELDS = (
    "messages",
    "prompt",
    "input",
    "system",
    "instructions",
    "suffix",
    "tools",
    "functions",
    "documents",
    "chat_template_kwargs",
)
# vLLM looks at each message and part of one on the event loop, 10 to 40 microseconds each.
MAX_PARTS = 2048
# Entries of fields whose entries cost something each: a look at every token, a row of a table,
# a grammar. OpenAI takes 4 stop strings, 128 tools and 300 biases.
MAX_ENTRIES: Mapping[str, int] = {
    "stop": 64,
    "stop_sequences": 64,
    # Of these four, vLLM's runner of models on GPUs has tables of so many rows: 1024, 1024, 1024
    # tokens, 128. What does not fit raises inside the engine.
    "stop_token_ids": 100,
    "bad_words": 64,
    "logit_bias": 1024,
    "allowed_token_ids": 1024,
    "logprob_token_ids": 128,
    "tools": 256,
    "functions": 256,
    "documents": 256,
    "vllm_xargs": 32,
    "chat_template_kwargs": 32,
    "metadata": 64,
    "include": 64,
}
# Of all texts of a field that are looked for in every step, together.
MAX_TEXTS_CHARS: Mapping[str, int] = {"stop": 4096, "stop_sequences": 4096, "bad_words": 1000}
_CONVERSATIONS = frozenset({"messages", "input", "system"})


@dataclass(frozen=True, slots=True)
class FieldBounds:
    """What the engine's context can hold: so many tokens, and no prompt of more characters, since
    none of its tokens has more than `prompt_chars / context_tokens`."""

    context_tokens: int
    prompt_chars: int

    def times(self, factor: int) -> "FieldBounds":
        """The bounds of so many contexts."""
        return FieldBounds(self.context_tokens * factor, self.prompt_chars * factor)


def refuse_excess(payload: Mapping[str, Any], bounds: FieldBounds) -> None:
    """Raises RequestError 400 that names the field. Takes each value of the body once."""
    for field, most in MAX_ENTRIES.items():
        value = payload.get(field)
        if isinstance(value, list | dict) and len(value) > most:
            raise invalid(f"`{field}` has {len(value):,} entries; at most {most:,}.", param=field)
    for field in MAX_TEXTS_CHARS.keys() & payload.keys():
        value, most = payload[field], MAX_TEXTS_CHARS[field]
        texts = value if isinstance(value, list) else [value]
        if sum(len(text) for text in texts if isinstance(text, str)) > most:
            raise invalid(f"`{field}` has more than {most:,} characters.", param=field)
    for entry in _lists_in(payload.get("vllm_xargs")):
        if len(entry) > MAX_ENTRIES["vllm_xargs"]:
            raise invalid("A list of `vllm_xargs` is too long.", param="vllm_xargs")
    _refuse_long_prompt(payload, bounds)


def refuse_many_ids(payload: Mapping[str, Any], bounds: FieldBounds) -> None:
    """For `/detokenize`, whose ids come in `tokens`. Raises RequestError 400."""
    ids = payload.get("tokens")
    if isinstance(ids, list) and len(ids) > bounds.context_tokens:
        raise invalid(
            f"`tokens` has {len(ids):,} ids; at most {bounds.context_tokens:,}.", param="tokens"
        )


def _refuse_long_prompt(payload: Mapping[str, Any], bounds: FieldBounds) -> None:
    chars = parts = 0
    most_parts = min(bounds.context_tokens, MAX_PARTS)
    for field in PROMPT_FIELDS:
        in_conversation = field in _CONVERSATIONS
        waiting: list[Any] = [payload.get(field)]
        while waiting:
            part = waiting.pop()
            if isinstance(part, str):
                chars += len(part)
            elif isinstance(part, list):
                parts += len(part) if in_conversation else 0
                if parts <= most_parts:
                    waiting += [inner for inner in part if not isinstance(inner, int)]
            elif isinstance(part, dict):
                if in_conversation:
                    refuse_no_text(part, field)
                waiting += part.values()
            # Checked here, so that no more is looked through than is taken.
            if chars > bounds.prompt_chars:
                raise _too_long(field, f"more than {bounds.prompt_chars:,} characters", bounds)
            if parts > most_parts:
                raise _too_long(field, f"more than {most_parts:,} parts", bounds)


def _lists_in(value: object) -> Iterator[list[Any]]:
    if isinstance(value, dict):
        yield from (entry for entry in value.values() if isinstance(entry, list))


def _too_long(field: str, what: str, bounds: FieldBounds) -> RequestError:
    return invalid(
        f"`{field}` has {what}: no such prompt fits the context of {bounds.context_tokens:,} "
        "tokens. Shorten it.",
        param=field,
        code="context_length_exceeded",
    )
