"""How much a request may think: the tier's settings and what the request says in its own words."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from serve_app.answer_config import ThinkingConfig
from serve_app.api.endpoints import COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.core.thinking import EFFORT_SHARES, NO_EFFORT, ThinkingPlan
from serve_app.errors import invalid

BUDGET = "thinking_token_budget"
EFFORT = "reasoning_effort"
# vLLM's word for a thought without a bound.
UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the request says. `effort` None and `most_tokens` None: nothing."""

    off: bool = False
    most_tokens: int | None = None
    effort: float | None = None

    @property
    def to_think(self) -> bool:
        return not self.off and (self.most_tokens is not None or self.effort is not None)


def refuse_budget(payload: Mapping[str, Any], model: str) -> None:
    """For a model that does not think."""
    if payload.get(BUDGET) is not None:
        raise invalid(f"The model of the {model} tier does not think: leave it out.", param=BUDGET)


def plan_thinking(
    payload: Mapping[str, Any],
    endpoint: Endpoint,
    thinking: ThinkingConfig,
    *,
    max_new_tokens: int,
    force: bool,
) -> tuple[ThinkingPlan | None, str | None]:
    """The plan, and what the client should be told of it; None for a prompt that the client has
    written itself, token by token. Raises RequestError that names the field."""
    if endpoint is COMPLETIONS or payload.get("use_beam_search"):
        return None, None
    wish = _wish(payload, endpoint)
    kept = thinking.answer_tokens or ceil(max_new_tokens * thinking.answer_share)
    tiers = max(max_new_tokens - kept, 0)
    if thinking.budget_tokens is not None:
        tiers = min(tiers, thinking.budget_tokens)
    on = thinking.enabled and tiers > 0
    plan = ThinkingPlan(
        enabled=on and not wish.off,
        answer_tokens=kept,
        answer_share=thinking.answer_share,
        most_tokens=tiers if wish.most_tokens is None else min(tiers, wish.most_tokens),
        effort=1.0 if wish.effort is None else wish.effort,
        forced=force and payload.get("add_generation_prompt") is not False,
    )
    return plan, _warning(wish, on=on, tiers=tiers)


def _warning(wish: _Wish, *, on: bool, tiers: int) -> str | None:
    if not on and wish.to_think:
        return "thinking is off in this tier"
    if on and wish.most_tokens is not None and wish.most_tokens > tiers:
        return f"a thinking budget of {wish.most_tokens} is above the tier's {tiers} tokens"
    return None


def _wish(payload: Mapping[str, Any], endpoint: Endpoint) -> _Wish:
    if endpoint is RESPONSES:
        reasoning = _inner(payload, "reasoning")
        return _of_effort(reasoning.get("effort"), "reasoning.effort")
    if endpoint is MESSAGES:
        thinking = _inner(payload, "thinking")
        if thinking.get("type") == "disabled":
            return _Wish(off=True)
        return _Wish(most_tokens=_tokens(thinking.get("budget_tokens"), "thinking.budget_tokens"))
    template = _inner(payload, "chat_template_kwargs")
    if template.get("enable_thinking") is False or template.get("thinking") is False:
        return _Wish(off=True)
    by_effort = _of_effort(payload.get(EFFORT), EFFORT)
    tokens = _tokens(payload.get(BUDGET), BUDGET)
    return _Wish(by_effort.off or tokens == 0, tokens, by_effort.effort)


def _of_effort(effort: object, field: str) -> _Wish:
    if effort is None:
        return _Wish()
    if effort == NO_EFFORT:
        return _Wish(off=True)
    if not isinstance(effort, str) or effort not in EFFORT_SHARES:
        names = ", ".join([NO_EFFORT, *EFFORT_SHARES])
        raise invalid(f"`{field}` must be one of {names}.", param=field)
    return _Wish(effort=EFFORT_SHARES[effort])


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
