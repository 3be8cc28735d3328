"""A tier's rules for a request body: defaults filled in, limits kept, misleading fields refused."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from serve_app.api.answer_deadline import DEADLINE_FIELD
from serve_app.api.answer_policies import POLICY, take_policy
from serve_app.api.conversation import prompt_rules, shape_prompt, take_conversation
from serve_app.api.field_rules import (
    NO_SCHEMA_RULES,
    FieldBounds,
    SchemaRules,
    apply_field_rules,
    refuse_excess,
)
from serve_app.api.foreign_fields import FOREIGN_FIELDS, take_foreign_fields
from serve_app.api.routes import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    GENERATING,
    MESSAGES,
    RESPONSES,
    Endpoint,
)
from serve_app.api.structures import (
    STRUCTURE_FIELDS,
    binding_field,
    complete_tools,
    refuse_structures,
)
from serve_app.api.token_budget import (
    STOPS,
    TierLimit,
    keep_budget_below,
    limit_new_tokens,
    plan_thinking,
    refuse_budget,
    require_natural,
    unheeded,
)
from serve_app.config.answers import SamplingConfig, TaskConfig
from serve_app.config.tier import TierSettings
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.core.reasoning.prompt_rules import PromptRules
from serve_app.core.structure.schema_limits import SchemaLimits
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError, invalid

# Names of the limit of new tokens, of other servers and of other endpoints.
LIMIT_NAMES = frozenset({"max_new_tokens", "max_length", "num_predict"}).union(
    *(endpoint.limit_fields for endpoint in GENERATING.values())
)
# What other servers call it, and what the OpenAI schema calls it.
OTHER_NAMES = {
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
# 20 of each of 2,048 tokens: that blocks the event loop for half a second.
MAX_LOGPROBS = 50_000
TASK = "task"
# At 1.0 and above R1 distills write without end (the makers recommend 0.5 to 0.7).
HOT = 1.0


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request body that keeps the rules, the number of sequences that it makes the engine run,
    and the most tokens that each of them may get. `plan` says how it thinks, `warnings` what the
    client should know."""

    payload: dict[str, Any]
    sequences: int
    max_new_tokens: int
    streaming: bool
    plan: ThinkingPlan | None = None
    stop_repetition: bool = False
    warnings: tuple[str, ...] = ()
    # The client's names of fields that have others in the payload, by those of the payload.
    written_as: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    # The field that binds the answer to a grammar, for an error to name; None: nothing binds it.
    structure_field: str | None = None
    # None: its reasoning, then its answer.
    policy: PolicyPlan | None = None

    @property
    def can_move(self) -> bool:
        """Whether another replica could go on with its stream: what is voted on begins anew."""
        return self.policy is None or self.policy.policy is not AnswerPolicy.VOTE

    @property
    def waits_for_verdict(self) -> bool:
        """Whether it is a stream of which nothing is sent until it is decided, then all at once:
        how fast it is sent says nothing of the engine."""
        return self.streaming and not self.can_move

    @property
    def most_new_tokens(self) -> int:
        """Of all its sequences, with what is made beside them."""
        beside = 0 if self.policy is None else self.policy.unseen_tokens(self.max_new_tokens)
        return self.sequences * self.max_new_tokens + beside

    @property
    def deterministic(self) -> bool:
        """Whether the same request would be answered the same again."""
        return self.payload.get("temperature") == 0 or self.payload.get("seed") is not None


@dataclass(frozen=True, slots=True)
class RuleBook:
    """What the rules depend on; the same for all requests until the settings change. `known_fields`
    are the fields of vLLM's own request schemas; `thinks` and `r1` say of the model that it
    reasons, and that it is an R1 distill."""

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
    # Derived from the above once, not for each request.
    limit: TierLimit = dataclasses.field(init=False)
    prompts: PromptRules = dataclasses.field(init=False)
    _known: Mapping[str, frozenset[str]] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        most, lowers = self.settings.max_new_tokens, self.lowers_limits
        limit = TierLimit(self.tier, most, lowers, self.other_tiers_limit)
        prompts = prompt_rules(self.settings.prompting, r1=self.r1, thinks=self.thinks)
        own = {TASK, STOPS, DEADLINE_FIELD, POLICY}
        known = {path: fields | own for path, fields in self.known_fields.items()}
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "prompts", prompts)
        object.__setattr__(self, "_known", known)

    def known(self, endpoint: Endpoint) -> frozenset[str] | None:
        """All fields that may stand in a body of the endpoint; None where nobody knows."""
        return self._known.get(endpoint.path)


def prepare(payload: dict[str, Any], endpoint: Endpoint, book: RuleBook) -> PreparedRequest:
    """Apply the tier's rules. Raises RequestError that names the field as the client wrote it."""
    _expand_short_form(payload, endpoint)
    if book.bounds is not None:
        refuse_excess(payload, book.bounds)
    written_as: dict[str, str] = {}
    if not FOREIGN_FIELDS.isdisjoint(payload):
        written_as = take_foreign_fields(payload, endpoint)
    if endpoint is CHAT_COMPLETIONS and payload.get("top_logprobs"):
        written_as["logprobs"] = "top_logprobs"  # in the engine's own parameters
    try:
        return _prepare(payload, endpoint, book, written_as)
    except RequestError as error:
        raise error.under_names(written_as) from None


def count_sequences(payload: Mapping[str, Any], endpoint: Endpoint) -> int:
    """How many answers the request asks the engine for."""
    copies = payload.get("n")
    if copies is None:
        copies = 1
    require_natural("n", copies)
    prompt = payload.get("prompt") if endpoint is COMPLETIONS else None
    return max(1, copies) * _count_prompts(prompt)


def _prepare(
    payload: dict[str, Any], endpoint: Endpoint, book: RuleBook, written_as: Mapping[str, str]
) -> PreparedRequest:
    """(1) Refuse what would mislead its client or reach past the rules: unknown fields that look
    like known ones, closed fields, schemas that no compiler should see.
    (2) Fill in what the request leaves out, within the tier's limit of new tokens.
    (3) Shape the prompt as the model's family wants it, and plan its reasoning.
    (4) Collect what the client should know, and what the gate and the engine need to.
    """
    settings, known = book.settings, book.known(endpoint)
    unknown = _refuse_misleading_fields(payload, endpoint, known)  # (1)
    take_conversation(payload, endpoint)
    structured = not STRUCTURE_FIELDS.isdisjoint(payload)
    if structured:
        complete_tools(payload, endpoint)
        if book.schema_limits is not None:
            refuse_structures(payload, endpoint.name, book.schema_limits)
    apply_field_rules(payload, book.schema_rules.get(endpoint.path, NO_SCHEMA_RULES))
    if endpoint is RESPONSES and payload.get("store") is True:
        payload["store"] = False  # clients ask for it by default, and nothing is kept
    granted = limit_new_tokens(payload, endpoint, book.limit)  # (2)
    if payload.get("model") is None:
        payload["model"] = book.model
    task = take_task(payload, settings.tasks)
    fill_sampling(payload, task, settings, known)
    if settings.system_prompt is not None:
        _add_system_prompt(payload, endpoint, settings.system_prompt)
    shape_prompt(payload, endpoint, book.prompts, task.directive)  # (3)
    plan, warning = _plan(payload, endpoint, book, force=book.prompts.force_thought)
    payload.pop(STOPS, None)
    policy = None
    if POLICY in payload or settings.answers.policy is not AnswerPolicy.TRUNCATE:
        policy, plan = take_policy(payload, endpoint, settings.answers, plan, book.slots)
    keep_budget_below(payload, endpoint, granted)
    heat = heat_warning(payload) if book.r1 else None  # (4)
    warnings = (granted.warning, warning, heat, _warning_of_unknown(unknown))
    sequences = _within_slots(payload, endpoint, book)
    if policy is not None:
        sequences = max(sequences, policy.samples)
    _refuse_many_logprobs(payload, sequences * granted.tokens)
    binding = binding_field(payload, endpoint.name) if structured else None
    return PreparedRequest(
        payload,
        sequences,
        granted.tokens,
        payload.get("stream") is True,
        plan,
        settings.stop_repetition and payload.get("ignore_eos") is not True,
        tuple(text for text in warnings if text is not None),
        written_as,
        None if binding is None else written_as.get(binding, binding),
        policy,
    )


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
        if meant is not None or field in OTHER_NAMES:
            advice = "" if meant is None else f"; did you mean `{meant}`?"
            raise invalid(f"Unknown field `{field}`{advice}", param=field, code="unknown_parameter")
    return frozenset(unknown)


def _meant_by(field: str, endpoint: Endpoint, known: frozenset[str]) -> str | None:
    if field in LIMIT_NAMES:
        return endpoint.limit_fields[0]
    meant = OTHER_NAMES.get(field)
    if meant in known:
        return meant
    return next(iter(get_close_matches(field, known, n=1, cutoff=SIMILARITY)), None)


def take_task(payload: dict[str, Any], tasks: Mapping[str, TaskConfig]) -> TaskConfig:
    """The task that the request names, taken out of it. Raises RequestError for one that the tier
    does not know."""
    name = payload.pop(TASK, None)
    if name is None:
        return TaskConfig()
    if not isinstance(name, str) or name not in tasks:
        known = ", ".join(tasks) or "none"
        raise invalid(f"`{TASK}` must be one of the tier's tasks: {known}.", param=TASK)
    return tasks[name]


def fill_sampling(
    payload: dict[str, Any], task: TaskConfig, settings: TierSettings, known: frozenset[str] | None
) -> None:
    """Fill in what the request leaves out and the endpoint's schema knows."""
    chosen = task.model_dump(include={"temperature", "top_p"}, exclude_none=True)
    for field in SamplingConfig.model_fields:
        value = chosen.get(field, getattr(settings.sampling, field))
        if value is not None and payload.get(field) is None and (known is None or field in known):
            payload[field] = value


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


def heat_warning(payload: Mapping[str, Any]) -> str | None:
    """The warning about a temperature at which an R1 model's answers do not end."""
    temperature = payload.get("temperature")
    if not isinstance(temperature, int | float) or temperature < HOT:
        return None
    return (
        f"at temperature {temperature} this model's answers may not end; its makers recommend "
        "0.5 to 0.7"
    )


def _warning_of_unknown(fields: Iterable[str]) -> str | None:
    """The warning about fields that nobody here reads."""
    missed = sorted(field for field in fields if field not in _OF_NO_EFFECT)
    if not missed:
        return None
    named = [field for field in missed if _NAME.fullmatch(field)][:_NAMED_FIELDS]
    others = len(missed) - len(named)
    more = [] if others == 0 else [f"{others} more" if named else f"{others} fields"]
    return f"unknown here, and without effect: {', '.join([*named, *more])}"


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


def _count_prompts(prompt: object) -> int:
    """Legacy completions take one prompt, a list of them, or one or more lists of token ids."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, str):
        return 1
    return max(1, sum(isinstance(part, str | list) for part in prompt))
