"""How much a request may think: the tier's settings and what the request says in its own words."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from serve_app.api.conversation import continues_last
from serve_app.api.endpoints import COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.config.answers import ThinkingConfig
from serve_app.core.reasoning.budget import EFFORT_SHARES, NO_EFFORT, ThinkingPlan
from serve_app.errors import invalid

BUDGET = "thinking_token_budget"
EFFORT = "reasoning_effort"
# Whether the client's stop strings and ids end a thought too, as they do in bare vLLM.
STOPS = "stop_in_thinking"
# vLLM's word for a thought without a bound.
UNLIMITED = -1


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


def refuse_budget(payload: Mapping[str, Any], model: str) -> None:
    """For a model that does not think."""
    if payload.get(BUDGET) is not None:
        raise invalid(f"The model of the {model} tier does not think: leave it out.", param=BUDGET)


def unheeded(payload: Mapping[str, Any], endpoint: Endpoint) -> str | None:
    """What the client of a model that does not think should be told. Raises RequestError for an
    effort that is none."""
    if endpoint is COMPLETIONS or not _requested(payload, endpoint).to_think:
        return None
    return "the model of this tier does not think"


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
        stops_in_thought=_stops_in_thought(payload.get(STOPS)),
    )
    return plan, _warning(requested, on=on, tiers=tiers, continued=continued)


def _warning(requested: _Requested, *, on: bool, tiers: int, continued: bool) -> str | None:
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
    """Anthropic's words: `adaptive` leaves it to the effort how much is thought."""
    thinking = _inner(payload, "thinking")
    name = "output_config.effort"
    effort, off = _effort(_inner(payload, "output_config").get("effort"), name)
    tokens = _tokens(thinking.get("budget_tokens"), "thinking.budget_tokens")
    on = on or thinking.get("type") in ("enabled", "adaptive")
    return _Requested(off or thinking.get("type") == "disabled", on, tokens, effort)


def _stops_in_thought(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return value is True
    raise invalid(f"`{STOPS}` must be true or false.", param=STOPS, code="invalid_type")


def _effort(effort: object, field: str) -> tuple[float | None, bool]:
    """The share of the budget, and whether there is to be no thought at all."""
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
