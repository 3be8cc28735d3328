"""What a client may put into a field: which fields of vLLM's schemas are not a client's, which
values its schemas read too freely, how much could fit the context, and what causes too much work.

vLLM takes requests from whoever runs it: fields hand KV caches over, set the engine's priority,
keep responses, or reach into the renderer. Here strangers send them.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.core.reasoning.repetition import ENDLESS
from serve_app.errors import RequestError, invalid

_NOT_FOUND = {"previous_response_id": (404, "previous_response_not_found")}
_KEPT = "responses are not kept here: send the whole conversation"
_TEXT = "the models here read text only"
_ENGINES = "it is for engines that hand requests to each other"
# Why a field is closed. A value that asks for nothing (null, false, 0, empty) is dropped.
CLOSED_FIELDS: Mapping[str, str] = {
    "kv_transfer_params": _ENGINES,
    "ec_transfer_params": _ENGINES,
    "routed_experts_prompt_start": _ENGINES,
    "priority": "the tier's queue is in order of arrival",
    "use_beam_search": "it is not served: use `n`, and choose among the answers",
    "background": _KEPT,
    "previous_response_id": _KEPT,
    "previous_input_messages": _KEPT,
    "enable_response_messages": "it is for tests of the engine",
    "prompt_embeds": "prompts are text or token ids",
    "mm_payload": _TEXT,
    "mm_processor_kwargs": _TEXT,
    "media_io_kwargs": _TEXT,
    "return_mm_kwargs": _TEXT,
    "chat_template": "the tier's own template is used",
    "request_id": "send it as the header x-request-id",
}
# Template variables that every model's client may set; a template that has none ignores them.
USUAL_TEMPLATE_VARIABLES = frozenset({"enable_thinking", "thinking", "reasoning_effort"})
# What transformers' `apply_chat_template` takes beside them makes it do other work, as pad to
# 200 million tokens.
NO_TEMPLATE_VARIABLES = frozenset(
    {"messages", "tools", "documents", "conversation", "chat_template", "tokenize", "tokenizer"}
)
MAX_PROMPT_LOGPROBS = 5
_ENGINE_ARGUMENTS = frozenset({"kv_transfer_params", "ec_transfer_params", "kv_cache_report_mode"})
# As the names begin under which `engine/vllm/` hands the engine what a request's patches do.
OWN_ARGUMENTS = "tierserve_"
MAX_TEMPLATE_CHARS = 1024
# Parts of a message that are no text: vLLM would look at their URL, and names the model's path.
_NO_TEXT = ("image", "audio", "video", "file", "input_image", "input_audio", "input_file")
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
    # Of these five, vLLM's runner of models on GPUs has tables of so many rows: 128, 128, 1024,
    # 1024, 128. What does not fit raises inside the engine, which ends. A bad word takes two rows,
    # and one for each of its tokens in a table that `engine/vllm/engine.py` makes large enough.
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


@dataclass(frozen=True, slots=True)
class SchemaRules:
    """What vLLM's schemas say of an endpoint's fields; `template_variables` are those of the
    served chat template."""

    booleans: frozenset[str] = frozenset()
    integers: frozenset[str] = frozenset()
    template_variables: frozenset[str] = dataclasses.field(default_factory=frozenset[str])

    @classmethod
    def of(cls, schema: Mapping[str, Any], template_variables: frozenset[str]) -> "SchemaRules":
        """From a JSON schema, as pydantic writes it."""
        properties: Mapping[str, Any] = schema.get("properties", {})
        kinds = {name: _kinds(of) for name, of in properties.items()}
        return cls(
            frozenset(name for name, of in kinds.items() if of == {"boolean"}),
            frozenset(name for name, of in kinds.items() if of == {"integer"}),
            template_variables - NO_TEMPLATE_VARIABLES | USUAL_TEMPLATE_VARIABLES,
        )


NO_SCHEMA_RULES = SchemaRules()


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


def apply_field_rules(payload: dict[str, Any], rules: SchemaRules) -> None:
    """Raises RequestError 400 that names the field. Takes closed fields that ask for nothing off
    the payload."""
    for name in CLOSED_FIELDS.keys() & payload.keys():
        if payload[name]:
            message = f"`{name}` is not open to clients: {CLOSED_FIELDS[name]}."
            # Clients know by the status that there is no such response.
            status, code = _NOT_FOUND.get(name, (400, "invalid_value"))
            raise RequestError(status, message, param=name, code=code)
        del payload[name]
    arguments = payload.get("vllm_xargs")
    for name in arguments if isinstance(arguments, dict) else ():
        # vLLM takes the engine's arguments from there as well, and tierserve's patches theirs.
        if name in _ENGINE_ARGUMENTS or str(name).startswith(OWN_ARGUMENTS):
            message = f"`vllm_xargs.{str(name)[:64]}` is not open to clients."
            raise invalid(message, param="vllm_xargs")
    _require_kinds(payload, rules)
    _check_template_variables(payload, rules)
    _check_prompt_logprobs(payload)
    _check_repetition(payload)


def refuse_no_text(part: Mapping[str, Any], field_name: str) -> None:
    """Raises RequestError 400 for a part of a message that is a picture, a sound or a file."""
    kind = part.get("type")
    if isinstance(kind, str) and kind.startswith(_NO_TEXT):
        raise invalid(
            f"`{field_name}` has a part of type `{kind[:32]}`: {_TEXT}.", param=field_name
        )


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    options = schema.get("anyOf", [schema])
    return {option.get("type", "") for option in options} - {"null"}


def _require_kinds(payload: dict[str, Any], rules: SchemaRules) -> None:
    """pydantic takes "yes" for true and 2.0 for 2, and then means another request than the rules
    have seen."""
    for name in rules.booleans & payload.keys():
        if not isinstance(payload[name], bool | None):
            raise invalid(f"`{name}` must be true or false.", param=name, code="invalid_type")
    for name in rules.integers & payload.keys():
        value = payload[name]
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise invalid(f"`{name}` must be an integer.", param=name, code="invalid_type")


def _check_template_variables(payload: Mapping[str, Any], rules: SchemaRules) -> None:
    name = "chat_template_kwargs"
    given = payload.get(name)
    if not isinstance(given, dict):
        return
    variables = rules.template_variables | USUAL_TEMPLATE_VARIABLES
    for key, value in given.items():
        if key not in variables:
            known = ", ".join(sorted(variables))
            raise invalid(
                f"`{name}` has `{key[:64]}`; the template's variables are {known}.", param=name
            )
        is_scalar = isinstance(value, str | int | float | None)
        if not is_scalar or (isinstance(value, str) and len(value) > MAX_TEMPLATE_CHARS):
            raise invalid(f"`{name}.{key}` must be a short text or a number.", param=name)


def _check_prompt_logprobs(payload: Mapping[str, Any]) -> None:
    """Those of a prompt are computed all at once: memory that nobody else's request can have."""
    asked = "prompt_logprobs" if payload.get("prompt_logprobs") is not None else None
    if payload.get("echo") is True and payload.get("logprobs"):
        asked = "logprobs"
    if asked is None:
        return
    count = payload[asked]
    if isinstance(count, int) and not isinstance(count, bool) and count > MAX_PROMPT_LOGPROBS:
        raise _of_prompt(asked, f"at most {MAX_PROMPT_LOGPROBS}")
    if payload.get("n", 1) not in (None, 1):
        raise _of_prompt("n", "1")


def _of_prompt(name: str, most: str) -> RequestError:
    return invalid(f"With log probabilities of the prompt `{name}` is {most}.", param=name)


def _check_repetition(payload: Mapping[str, Any]) -> None:
    """The engine looks for repetitions between its steps, for all sequences alike."""
    name = "repetition_detection"
    given = payload.get(name)
    if not isinstance(given, dict):
        return
    for key in ("max_pattern_size", "min_pattern_size"):
        value = given.get(key)
        if isinstance(value, int | float) and value > ENDLESS.most_tokens:
            raise invalid(f"`{name}.{key}` is at most {ENDLESS.most_tokens}.", param=name)
    count = given.get("min_count")
    if isinstance(count, int | float) and count > 100:
        raise invalid(f"`{name}.min_count` is at most 100.", param=name)


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
