"""What an answer may hold that is to be complete by a deadline: how many tokens, how many of them
for its reasoning, and when none of it is worth beginning.

All times are seconds. A plan is made once a request has its slots, from what the replica measures;
while it runs `RunningDeadline` compares the time left with what is still to come, at the speed that
the stream has then.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.core.reasoning.budget import LEAST_THOUGHT_TOKENS, ThinkingPlan, thought_budget

# From an answer's last token in the engine to its last byte at the client's connection.
END_S = 0.1
# What closes the reasoning for the model, about: the engine knows its phrase by tokens.
CLOSING_TOKENS = 24
# Who has closed the reasoning, for the client: its deadline, or others that wait for its slots.
BY_DEADLINE = "deadline"
BY_QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a request gets its tokens: seconds to the first one, and between the others."""

    first_token_s: float
    token_s: float

    def takes_s(self, tokens: int) -> float:
        """Until so many tokens have come, and their end has been sent."""
        return self.first_token_s + max(0, tokens - 1) * self.token_s + END_S

    def tokens_within(self, left_s: float) -> int:
        """The most tokens for which `takes_s` is no more than that; 0: not even one."""
        spare_s = left_s - END_S - self.first_token_s
        if not spare_s >= 0:
            return 0
        tokens = 1 + math.floor(spare_s / max(self.token_s, 1e-9))
        # The sums of `takes_s` round otherwise than this quotient.
        return tokens if self.takes_s(tokens) <= left_s else tokens - 1


@dataclass(frozen=True, slots=True)
class DeadlinePlan:
    """What the time allows. `max_new_tokens` 0: not even the shortest direct answer.
    `reasoning_tokens` None: there is to be no reasoning. `answer_tokens` are reserved for what
    follows it. `reasoning_cut`, `answer_cut`: less than the request would get without a deadline.
    """

    max_new_tokens: int
    reasoning_tokens: int | None
    answer_tokens: int
    reason: str
    reasoning_cut: bool = False
    answer_cut: bool = False


def plan_within(
    left_s: float,
    pace: Pace,
    thinking: ThinkingPlan | None,
    *,
    max_new_tokens: int,
    least_answer_tokens: int,
    closing_tokens: int = CLOSING_TOKENS,
) -> DeadlinePlan:
    """Divide the time that is left. `thinking` is None where nobody plans the reasoning;
    `least_answer_tokens` is the shortest answer that is worth giving.

    The reasoning has what the answer leaves: its reserve by `thinking`, and never less than
    `least_answer_tokens`. Where too little is left for reasoning, the answer is a direct one.
    """
    least = min(least_answer_tokens, max_new_tokens)
    fits = pace.tokens_within(left_s)
    tokens = min(max_new_tokens, fits)
    if tokens < least:
        return DeadlinePlan(
            0, None, 0, f"{left_s:.2f} s leave {tokens} tokens; an answer has {least}"
        )
    reason = f"{left_s:.2f} s leave {fits} tokens at {pace.token_s * 1e3:.1f} ms"
    cut = tokens < max_new_tokens
    if thinking is None:
        return DeadlinePlan(tokens, None, tokens, reason, answer_cut=cut)
    without = thought_budget(thinking, max_tokens=max_new_tokens, closing_tokens=closing_tokens)
    within = thought_budget(thinking, max_tokens=tokens, closing_tokens=closing_tokens)
    if without.tokens is None:
        return DeadlinePlan(tokens, None, tokens, f"{reason}; {without.reason}", answer_cut=cut)
    reserve = min(thinking.answer_tokens, math.ceil(tokens * thinking.answer_share))
    reserve = max(reserve, least)
    reasoning = min(within.tokens or 0, tokens - closing_tokens - reserve)
    if reasoning < min(LEAST_THOUGHT_TOKENS, without.tokens):
        direct = f"{reason}: none for reasoning beside the answer's {reserve}"
        return DeadlinePlan(tokens, None, tokens, direct, reasoning_cut=True, answer_cut=cut)
    return DeadlinePlan(
        tokens,
        reasoning,
        reserve,
        f"{reason}: {reasoning} for reasoning, {reserve} for the answer",
        reasoning_cut=reasoning < without.tokens,
        answer_cut=cut,
    )


@dataclass(slots=True)
class RunningDeadline:
    """The deadline of an answer that runs, `deadline_ms` from its arrival, which is at `due_s` of
    `clock_s`. `token_s` is the measured time between tokens of its stream, `turn_s` what it takes
    until the first token of a new turn of the engine behind so many tokens of the answer.
    `crowded_tokens` is how long reasoning may be now for the sake of those that wait, None where
    nobody does (`crowding.py`).

    `plan` is what it began with; `answer_cut`: the time was over before its answer was.
    """

    deadline_ms: int
    due_s: float
    clock_s: Callable[[], float]
    token_s: Callable[[], float] = lambda: 0.0
    turn_s: Callable[[int], float] = lambda _: 0.0
    plan: DeadlinePlan | None = None
    crowded_tokens: Callable[[], float | None] = lambda: None
    answer_cut: bool = False

    @property
    def left_s(self) -> float:
        return self.due_s - self.clock_s()

    @property
    def met(self) -> bool:
        """Whether it is not over yet."""
        return self.left_s >= 0

    def close_reasoning(self, _: int, tokens: int) -> str | None:
        """As `Generation.close_reasoning`: once what is left is no more than what the answer's
        reserve takes behind so many tokens of reasoning, or others wait for its slots."""
        if self.plan is None:
            return None
        most = self.crowded_tokens()
        if most is not None and tokens >= most:
            return BY_QUEUE
        pace = Pace(self.turn_s(tokens + CLOSING_TOKENS), self.token_s())
        # Until it is asked again a token will have come.
        needed_s = pace.takes_s(self.plan.answer_tokens) + pace.token_s
        return BY_DEADLINE if needed_s >= self.left_s else None

    @property
    def is_due(self) -> bool:
        """Whether it has to end now: another token, and its way to the client, may be late."""
        return self.left_s <= self.token_s() + END_S
