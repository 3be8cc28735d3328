"""A tier's rules for a request body: defaults filled in, limits kept, misleading fields refused."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from serve_app.api.conversation import take_conversation
from serve_app.api.endpoints import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    GENERATING,
    MESSAGES,
    RESPONSES,
    Endpoint,
)
from serve_app.api.field_bounds import FieldBounds, refuse_excess
from serve_app.api.field_rules import SchemaRules, apply_field_rules
from serve_app.api.foreign_fields import take_foreign_fields
from serve_app.api.presets import TASK, fill_sampling, heat_warning, take_task
from serve_app.api.prompting import prompt_rules, shape_prompt
from serve_app.api.structure_field import refuse_structures
from serve_app.api.thinking import STOPS, plan_thinking, refuse_budget, unheeded
from serve_app.api.token_limits import (
    TierLimit,
    keep_budget_below,
    limit_new_tokens,
    require_natural,
)
from serve_app.api.tool_schemas import complete_tools
from serve_app.config.tier import TierSettings
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.core.structure.schema_limits import SchemaLimits
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError, invalid

# Names of the limit of new tokens, of other servers and of other endpoints.
LIMIT_NAMES = frozenset({"max_new_tokens", "max_length", "num_predict"}).union(
    *(endpoint.limit_fields for endpoint in GENERATING.values())
)
# What other servers call it, and what the OpenAI schema calls it.
FOREIGN_FIELDS = {
    "num_return_sequences": "n",
    "stop_sequences": "stop",
    "do_sample": "temperature",
    "json_schema": "response_format",
}
SIMILARITY = 0.8
# What a client may add of its own, each name compared to all that the schema knows.
MAX_UNKNOWN_FIELDS = 32
MAX_FIELD_CHARS = 64
# Of those, the ones that are of no concern to an answer: nobody misses their effect.
_OF_NO_EFFECT = frozenset(
    {
        *("metadata", "store", "user", "user_id", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "session_id"),
        *("container", "betas", "client_metadata", "extra_headers", "litellm_params"),
    }
)
# What may stand in a header.
_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
_NAMED_FIELDS = 5
# 20 of each of 2,048 tokens: the event loop is held for half a second then.
MAX_LOGPROBS = 50_000


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request body that keeps the rules, the number of sequences that it makes the engine run,
    and the most tokens that each of them may get. `plan` says how it thinks, `warnings` what the
    client is told."""

    payload: dict[str, Any]
    sequences: int
    max_new_tokens: int
    streaming: bool
    plan: ThinkingPlan | None = None
    stop_repetition: bool = False
    warnings: tuple[str, ...] = ()
    # The client's names of fields that have others in the payload, by those of the payload.
    written_as: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class RuleBook:
    """What the rules depend on. `known_fields` are the fields of vLLM's own request schemas;
    `thinks` and `r1` say of the model that it thinks, and that it is an R1 distill."""

    tier: Tier
    settings: TierSettings
    slots: int
    model: str
    known_fields: Mapping[str, frozenset[str]]
    thinks: bool = False
    r1: bool = False
    bounds: FieldBounds | None = None
    schema_limits: SchemaLimits | None = None
    schema_rules: Mapping[str, SchemaRules] = dataclasses.field(
        default_factory=dict[str, SchemaRules]
    )
    # Whether a limit of new tokens above the tier's is lowered, and what the other tier's is.
    lowers_limits: bool = False
    other_tiers_limit: int | None = None


def prepare(payload: dict[str, Any], endpoint: Endpoint, book: RuleBook) -> PreparedRequest:
    """Apply the tier's rules. Raises RequestError that names the field as the client wrote it."""
    _expand_short_form(payload, endpoint)
    if book.bounds is not None:
        refuse_excess(payload, book.bounds)
    written_as = take_foreign_fields(payload, endpoint)
    if endpoint is CHAT_COMPLETIONS and payload.get("top_logprobs"):
        written_as["logprobs"] = "top_logprobs"  # in the engine's own parameters
    try:
        prepared = _prepare(payload, endpoint, book)
    except RequestError as error:
        raise error.under_names(written_as) from None
    return dataclasses.replace(prepared, written_as=written_as)


def _prepare(payload: dict[str, Any], endpoint: Endpoint, book: RuleBook) -> PreparedRequest:
    known = book.known_fields.get(endpoint.path)
    known = None if known is None else known | {TASK, STOPS}
    unknown = _refuse_misleading_fields(payload, endpoint, known)
    take_conversation(payload, endpoint)
    complete_tools(payload, endpoint)
    if book.schema_limits is not None:
        refuse_structures(payload, endpoint.name, book.schema_limits)
    apply_field_rules(payload, book.schema_rules.get(endpoint.path, SchemaRules()))
    if endpoint is RESPONSES and payload.get("store") is True:
        payload["store"] = False  # clients ask for it by default, and nothing is kept
    limit = TierLimit(
        book.tier, book.settings.max_new_tokens, book.lowers_limits, book.other_tiers_limit
    )
    granted = limit_new_tokens(payload, endpoint, limit)
    if payload.get("model") is None:
        payload["model"] = book.model
    task = take_task(payload, book.settings.tasks)
    fill_sampling(payload, task, book.settings, known)
    if book.settings.system_prompt is not None:
        _add_system_prompt(payload, endpoint, book.settings.system_prompt)
    rules = prompt_rules(book.settings.prompting, r1=book.r1, thinks=book.thinks)
    shape_prompt(payload, endpoint, rules, task.directive)
    plan, warning = _plan(payload, endpoint, book, force=rules.force_thought)
    payload.pop(STOPS, None)
    keep_budget_below(payload, endpoint, granted)
    heat = heat_warning(payload) if book.r1 else None
    warnings = (granted.warning, warning, heat, _warning_of_unknown(unknown))
    sequences = _within_slots(payload, endpoint, book)
    _refuse_many_logprobs(payload, sequences * granted.tokens)
    return PreparedRequest(
        payload,
        sequences,
        granted.tokens,
        payload.get("stream") is True,
        plan,
        book.settings.stop_repetition and payload.get("ignore_eos") is not True,
        tuple(text for text in warnings if text is not None),
    )


def _plan(
    payload: Mapping[str, Any], endpoint: Endpoint, book: RuleBook, *, force: bool
) -> tuple[ThinkingPlan | None, str | None]:
    if not book.thinks:
        refuse_budget(payload, book.tier)
        return None, unheeded(payload, endpoint)
    return plan_thinking(
        payload,
        endpoint,
        book.settings.thinking,
        max_new_tokens=book.settings.max_new_tokens,
        force=force,
    )


def _refuse_many_logprobs(payload: Mapping[str, Any], new_tokens: int) -> None:
    """Each is an object that the event loop makes, and of a whole answer it makes all at once."""
    if payload.get("stream") is True:
        return
    for field in ("top_logprobs", "logprobs"):
        each = payload.get(field)
        if not isinstance(each, int) or each is True or each * new_tokens <= MAX_LOGPROBS:
            continue
        raise invalid(
            f"`{field}` is {each}: of {new_tokens:,} tokens that is more than the "
            f"{MAX_LOGPROBS:,} log probabilities of a whole answer. Stream it, or ask for less.",
            param=field,
        )


def _within_slots(payload: Mapping[str, Any], endpoint: Endpoint, book: RuleBook) -> int:
    sequences = count_sequences(payload, endpoint)
    if sequences > book.slots:
        field = "n" if payload.get("n", 1) not in (None, 1) else "prompt"
        raise invalid(
            f"This request asks for {sequences} sequences at once; a replica of the "
            f"{book.tier} tier runs {book.slots}. Lower `{field}`.",
            param=field,
        )
    return sequences


def _expand_short_form(payload: dict[str, Any], endpoint: Endpoint) -> None:
    """`{"prompt": "..."}` is a conversation of one user message."""
    if endpoint in (COMPLETIONS, RESPONSES):
        return
    # null is what a client sends that has nothing to say, and no message at all.
    if payload.get("messages") is None:
        payload.pop("messages", None)
    if "messages" in payload:
        if not isinstance(payload["messages"], list):
            raise invalid("`messages` must be a list.", param="messages", code="invalid_type")
        if "prompt" in payload:
            raise invalid("Send either `messages` or `prompt`, not both.", param="prompt")
        return
    if "prompt" not in payload:
        raise RequestError(
            400,
            "`messages` is missing: send a list of chat messages, or the short form "
            '{"prompt": "..."}.',
            param="messages",
            code="missing_required_parameter",
        )
    prompt = payload.pop("prompt")
    if not isinstance(prompt, str):
        raise invalid("`prompt` must be a string.", param="prompt", code="invalid_type")
    payload["messages"] = [{"role": "user", "content": prompt}]


def _refuse_misleading_fields(
    payload: Mapping[str, Any], endpoint: Endpoint, known: frozenset[str] | None
) -> frozenset[str]:
    """An unknown field that looks like a known one would silently do nothing. Others, such as a
    client's own metadata, are harmless and stay; they are returned."""
    if known is None:
        return frozenset()
    unknown = payload.keys() - known
    if len(unknown) > MAX_UNKNOWN_FIELDS:
        raise invalid(
            f"{len(unknown)} fields are unknown here; at most {MAX_UNKNOWN_FIELDS} are taken.",
            code="unknown_parameter",
        )
    for field in unknown:
        if len(field) > MAX_FIELD_CHARS:
            raise invalid(
                f"Unknown field `{field[:MAX_FIELD_CHARS]}...`; a name has at most "
                f"{MAX_FIELD_CHARS} characters.",
                param=field[:MAX_FIELD_CHARS],
                code="unknown_parameter",
            )
        meant = _meant_by(field, endpoint, known)
        if meant is not None or field in FOREIGN_FIELDS:
            advice = "" if meant is None else f"; did you mean `{meant}`?"
            raise invalid(f"Unknown field `{field}`{advice}", param=field, code="unknown_parameter")
    return frozenset(unknown)


def _warning_of_unknown(fields: Iterable[str]) -> str | None:
    """What the client is told of fields that nobody here reads."""
    missed = sorted(field for field in fields if field not in _OF_NO_EFFECT)
    if not missed:
        return None
    named = [field for field in missed if _NAME.fullmatch(field)][:_NAMED_FIELDS]
    others = len(missed) - len(named)
    more = [] if others == 0 else [f"{others} more" if named else f"{others} fields"]
    return f"unknown here, and without effect: {', '.join([*named, *more])}"


def _meant_by(field: str, endpoint: Endpoint, known: frozenset[str]) -> str | None:
    if field in LIMIT_NAMES:
        return endpoint.limit_fields[0]
    meant = FOREIGN_FIELDS.get(field)
    if meant in known:
        return meant
    return next(iter(get_close_matches(field, known, n=1, cutoff=SIMILARITY)), None)


def _add_system_prompt(payload: dict[str, Any], endpoint: Endpoint, prompt: str) -> None:
    field = {MESSAGES: "system", RESPONSES: "instructions"}.get(endpoint)
    if field is not None:
        if payload.get(field) is None:
            payload[field] = prompt
    elif endpoint is not COMPLETIONS and isinstance(payload["messages"], list):
        messages = payload["messages"]
        roles = {message.get("role") for message in messages if isinstance(message, dict)}
        if not roles & {"system", "developer"}:
            payload["messages"] = [{"role": "system", "content": prompt}, *messages]


def count_sequences(payload: Mapping[str, Any], endpoint: Endpoint) -> int:
    """How many answers the request asks the engine for."""
    copies = payload.get("n")
    if copies is None:
        copies = 1
    require_natural("n", copies)
    prompt = payload.get("prompt") if endpoint is COMPLETIONS else None
    return max(1, copies) * _count_prompts(prompt)


def _count_prompts(prompt: object) -> int:
    """Legacy completions take one prompt, a list of them, or one or more lists of token ids."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, str):
        return 1
    return max(1, sum(isinstance(part, str | list) for part in prompt))
