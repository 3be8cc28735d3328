"""How many new tokens a request may get, under the limit of its tier, and how many of them it may
spend on reasoning: the tier's settings and what the request asks for in its endpoint's fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from serve_app.api.conversation import continues_last
from serve_app.api.routes import COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.config.answers import ThinkingConfig
from serve_app.core.reasoning.budget import EFFORT_SHARES, NO_EFFORT, ThinkingPlan
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError, invalid

# Anthropic's schema has no smaller budget of reasoning.
LEAST_BUDGET = 1024
BUDGET = "thinking_token_budget"
EFFORT = "reasoning_effort"
# Whether the client's stop strings and ids end its reasoning too, as they do in vLLM itself.
STOPS = "stop_in_thinking"
# vLLM's value for reasoning without a bound.
UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class TierLimit:
    """The most new tokens that a tier gives. `lowers`: a request for more gets these instead of a
    refusal. `other_tiers`: what the other tier gives, None where it is not known."""

    tier: Tier
    tokens: int
    lowers: bool = False
    other_tiers: int | None = None


@dataclass(frozen=True, slots=True)
class GrantedTokens:
    """The most tokens that a sequence of the request may get; `warning` says what was lowered."""

    tokens: int
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _Requested:
    """What the request says. `effort` None and `most_tokens` None: nothing. `on`: its template's
    variable, which says no more than the tier's own settings."""

    off: bool = False
    on: bool = False
    most_tokens: int | None = None
    effort: float | None = None

    @property
    def to_think(self) -> bool:
        said = self.on or self.most_tokens is not None or self.effort is not None
        return said and not self.off


def limit_new_tokens(
    payload: dict[str, Any], endpoint: Endpoint, limit: TierLimit
) -> GrantedTokens:
    """Write the limit into the payload where it has none, or too large a one. Raises RequestError
    that names the field."""
    asked: list[int] = []
    lowered: list[str] = []
    for field in (*endpoint.limit_fields, "min_tokens"):
        value = payload.get(field)
        if value is None:
            continue
        require_natural(field, value)
        if value > limit.tokens:
            # A minimum is not met by lowering it.
            if field == "min_tokens" or not limit.lowers:
                raise _too_many_tokens(limit, field, value)
            payload[field] = limit.tokens
            lowered.append(f"{field} {value}")
        if field != "min_tokens":
            asked.append(min(value, limit.tokens))
    # vLLM reads a null as all that is left of the context.
    has_null = any(field in payload for field in endpoint.limit_fields)
    if not asked and (has_null or endpoint.default_limit_field is not None):
        payload[endpoint.default_limit_field or endpoint.limit_fields[0]] = limit.tokens
    return GrantedTokens(min([limit.tokens, *asked]), _limit_warning(limit, lowered))


def keep_budget_below(payload: dict[str, Any], endpoint: Endpoint, granted: GrantedTokens) -> None:
    """Anthropic's budget of reasoning has to be below the limit, and would not be below one that
    was lowered. The tier's own plan bounds the reasoning either way."""
    thinking = payload.get("thinking")
    if endpoint is not MESSAGES or granted.warning is None or not isinstance(thinking, dict):
        return
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < granted.tokens:
        return
    if granted.tokens > LEAST_BUDGET:
        payload["thinking"] = {**thinking, "budget_tokens": granted.tokens - 1}
    else:
        payload["thinking"] = {"type": "adaptive"}


def require_natural(field: str, value: object) -> None:
    """Raises RequestError for what is no number of things. vLLM's schemas would turn "4000" and
    4000.0 into a number, past the tier's limit."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(f"`{field}` must be an integer.", param=field, code="invalid_type")
    if value < 0:
        raise invalid(f"`{field}` must not be negative.", param=field)


def refuse_budget(payload: Mapping[str, Any], model: str) -> None:
    """For a model that does not think."""
    if payload.get(BUDGET) is not None:
        raise invalid(f"The model of the {model} tier does not think: leave it out.", param=BUDGET)


def unheeded(payload: Mapping[str, Any], endpoint: Endpoint) -> str | None:
    """The warning for the client of a model that does not reason. Raises RequestError for an effort
    that is none."""
    if endpoint is COMPLETIONS or not _requested(payload, endpoint).to_think:
        return None
    return "the model of this tier does not think"


def asks_for_reasoning(payload: Mapping[str, Any], endpoint: Endpoint) -> bool:
    """Whether the request says itself that it wants reasoning, or how much of it."""
    return endpoint is not COMPLETIONS and _requested(payload, endpoint).to_think


def plan_thinking(
    payload: Mapping[str, Any],
    endpoint: Endpoint,
    thinking: ThinkingConfig,
    *,
    max_new_tokens: int,
    force: bool,
) -> tuple[ThinkingPlan | None, str | None]:
    """The plan, and the client's warning about it; None for a prompt that the client has
    written itself, token by token. Raises RequestError that names the field."""
    if endpoint is COMPLETIONS or payload.get("use_beam_search"):
        return None, None
    requested = _requested(payload, endpoint)
    kept = thinking.answer_tokens or ceil(max_new_tokens * thinking.answer_share)
    tiers = max(max_new_tokens - kept, 0)
    if thinking.budget_tokens is not None:
        tiers = min(tiers, thinking.budget_tokens)
    on = thinking.enabled and tiers > 0
    continued = continues_last(payload, endpoint)
    plan = ThinkingPlan(
        enabled=on and not requested.off,
        answer_tokens=kept,
        answer_share=thinking.answer_share,
        most_tokens=tiers if requested.most_tokens is None else min(tiers, requested.most_tokens),
        effort=1.0 if requested.effort is None else requested.effort,
        forced=force and not continued and payload.get("add_generation_prompt") is not False,
        stops_in_thought=_stops_in_reasoning(payload.get(STOPS)),
    )
    return plan, _budget_warning(requested, on=on, tiers=tiers, continued=continued)


def _limit_warning(limit: TierLimit, lowered: list[str]) -> str | None:
    if not lowered:
        return None
    return (
        f"{' and '.join(lowered)} lowered to {limit.tokens}, the most new tokens of the "
        f"{limit.tier} tier"
    )


def _too_many_tokens(limit: TierLimit, field: str, value: int) -> RequestError:
    other = limit.tier.other
    advice = "Ask for less."
    if limit.other_tiers is not None and value <= limit.other_tiers:
        advice = (
            f"The {other} tier gives up to {limit.other_tiers} (POST {other.route_prefix}, or "
            f'`"model": "{other}"` at /v1).'
        )
    return invalid(
        f"`{field}` is {value}; the {limit.tier} tier gives at most {limit.tokens} new tokens. "
        f"{advice}",
        param=field,
        code="max_tokens_exceeds_tier_limit",
    )


def _budget_warning(requested: _Requested, *, on: bool, tiers: int, continued: bool) -> str | None:
    if not on and requested.to_think:
        return "thinking is off in this tier"
    if continued and requested.to_think:
        return "an answer that is continued gets no thought of its own"
    if on and requested.most_tokens is not None and requested.most_tokens > tiers:
        return f"a thinking budget of {requested.most_tokens} is above the tier's {tiers} tokens"
    return None


def _requested(payload: Mapping[str, Any], endpoint: Endpoint) -> _Requested:
    template = _inner(payload, "chat_template_kwargs")
    if template.get("enable_thinking") is False or template.get("thinking") is False:
        return _Requested(off=True)
    on = template.get("enable_thinking") is True or template.get("thinking") is True
    if endpoint is RESPONSES:
        effort, off = _effort(_inner(payload, "reasoning").get("effort"), "reasoning.effort")
        return _Requested(off, on, effort=effort)
    if endpoint is MESSAGES:
        return _requested_of_messages(payload, on=on)
    effort, off = _effort(payload.get(EFFORT), EFFORT)
    tokens = _tokens(payload.get(BUDGET), BUDGET)
    return _Requested(off or tokens == 0, on, tokens, effort)


def _requested_of_messages(payload: Mapping[str, Any], *, on: bool) -> _Requested:
    """Anthropic's fields: with `adaptive` the effort says how much it reasons."""
    thinking = _inner(payload, "thinking")
    name = "output_config.effort"
    effort, off = _effort(_inner(payload, "output_config").get("effort"), name)
    tokens = _tokens(thinking.get("budget_tokens"), "thinking.budget_tokens")
    on = on or thinking.get("type") in ("enabled", "adaptive")
    return _Requested(off or thinking.get("type") == "disabled", on, tokens, effort)


def _stops_in_reasoning(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return value is True
    raise invalid(f"`{STOPS}` must be true or false.", param=STOPS, code="invalid_type")


def _effort(effort: object, field: str) -> tuple[float | None, bool]:
    """The fraction of the budget, and whether there is to be no reasoning at all."""
    if effort is None:
        return None, False
    if effort == NO_EFFORT:
        return None, True
    if not isinstance(effort, str) or effort not in EFFORT_SHARES:
        names = ", ".join([NO_EFFORT, *EFFORT_SHARES])
        raise invalid(f"`{field}` must be one of {names}.", param=field)
    return EFFORT_SHARES[effort], False


def _tokens(value: object, field: str) -> int | None:
    if value is None or value == UNLIMITED:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise invalid(
            f"`{field}` must be a number of tokens, 0 or more; 0: no thought.", param=field
        )
    return value


def _inner(payload: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """The object in this field; what is none is for the engine's schema to refuse."""
    value = payload.get(field)
    return value if isinstance(value, Mapping) else {}
