"""How a request's tokens are divided between its thought and its answer.

A distilled R1 thinks for thousands of tokens, so a limit that only cuts returns an empty answer.
Part of every request's tokens is kept for the answer; the thought is closed when it has used the
rest.
"""

from dataclasses import dataclass
from math import ceil

# Shares of the thinking budget by OpenAI's `reasoning_effort`; the names are those that vLLM takes.
EFFORT_SHARES = {
    "minimal": 0.1,
    "low": 0.25,
    "medium": 0.5,
    "high": 1.0,
    "xhigh": 1.0,
    "max": 1.0,
}
NO_EFFORT = "none"
# A thought that is closed before this says nothing; the whole limit then goes to the answer.
LEAST_THOUGHT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class ThinkingPlan:
    """What tier and request allow. `answer_tokens` are kept for the answer of a request with the
    tier's full limit, and `answer_share` of a smaller one; `most_tokens` is the request's own
    bound of its thought, `effort` the share of the budget that it wants; `forced`: a reply that
    the prompt does not open with a thought is opened with one; `stops_in_thought`: the client's
    stop strings and ids end a thought too."""

    enabled: bool
    answer_tokens: int
    answer_share: float
    most_tokens: int | None = None
    effort: float = 1.0
    forced: bool = True
    stops_in_thought: bool = False


@dataclass(frozen=True, slots=True)
class ThoughtBudget:
    """Tokens that a thought may have; None: there is to be none."""

    tokens: int | None
    reason: str


def thought_budget(plan: ThinkingPlan, *, max_tokens: int, closing_tokens: int) -> ThoughtBudget:
    """The budget of a request that may get `max_tokens` in all, where it takes `closing_tokens` to
    close a thought."""
    if not plan.enabled:
        return ThoughtBudget(None, "thinking is off")
    kept = min(plan.answer_tokens, ceil(max_tokens * plan.answer_share))
    room = max_tokens - kept - closing_tokens
    tokens = int(room * plan.effort)
    if plan.most_tokens is not None:
        tokens = min(tokens, plan.most_tokens)
        if plan.most_tokens == 0:
            return ThoughtBudget(None, "the request wants no thought")
    if room < LEAST_THOUGHT_TOKENS:
        return ThoughtBudget(
            None, f"{max_tokens} tokens leave {max(room, 0)} beside the answer's {kept}"
        )
    return ThoughtBudget(max(tokens, 1), f"{max_tokens} less {kept} for the answer")
