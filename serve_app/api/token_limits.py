"""How many new tokens a request may get: what it asks for, under the limit of its tier."""

from dataclasses import dataclass
from typing import Any

from serve_app.api.endpoints import MESSAGES, Endpoint
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError, invalid

# Anthropic's schema has no smaller budget of a thought.
LEAST_BUDGET = 1024


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
            # So many tokens at least are a wish that fewer do not grant.
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
    return GrantedTokens(min([limit.tokens, *asked]), _warning(limit, lowered))


def keep_budget_below(payload: dict[str, Any], endpoint: Endpoint, granted: GrantedTokens) -> None:
    """Anthropic's budget of a thought has to be below the limit, and would not be below one that
    was lowered. The tier's own plan bounds the thought either way."""
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


def _warning(limit: TierLimit, lowered: list[str]) -> str | None:
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
