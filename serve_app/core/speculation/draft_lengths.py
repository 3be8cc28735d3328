"""How many of the tokens that are drafted for each sequence a step is to verify.

A drafted token costs its row in the step, and gains a token where the model agrees with it and with
all before it. A step of `n` sequences makes `n` tokens in `plain_s`; with drafts it makes as many
as are accepted more, in `plain_s + draft_s * (whether there are any) + row_s * drafts`. Drafts are
taken in the order of their chance, as long as tokens a second rise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

# What is gained must be more than what figures that were just measured are off by.
LEAST_GAIN = 0.03
# A sequence's newest draft counts by a tenth of all, and one that has had none is as the others.
NEWEST_WEIGHT = 0.1
PRIOR_TOKENS = 2.0
# Of a step's time the newest counts by a thirtieth; one that was held up counts as so many times
# what it should have taken at most, and that again for each row of a draft before that is known.
NEWEST_STEP_WEIGHT = 1 / 30
MOST_TIMES_MEAN = 3.0
# Time of steps with drafts is known once there were so many, and of those without.
LEAST_STEPS, LEAST_PLAIN_STEPS = 8, 4


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Drafted tokens of late that the model agreed with, and those at which it did not."""

    accepted: float = 0.0
    refused: float = 0.0

    def chance(self, prior: float) -> float:
        """That the next drafted token is accepted, if all before it are."""
        known = self.accepted + self.refused
        return (self.accepted + prior * PRIOR_TOKENS) / (known + PRIOR_TOKENS)


def observe_draft(seen: Acceptance, drafted: Sequence[int], made: Sequence[int]) -> Acceptance:
    """A sequence's draft beside the ids that it went on with. It need not have been verified: what
    was made without it says as much about its first token."""
    both = min(len(drafted), len(made))
    if both == 0:
        return seen
    accepted = next((at for at in range(both) if drafted[at] != made[at]), both)
    kept = 1.0 - NEWEST_WEIGHT
    return Acceptance(seen.accepted * kept + accepted, seen.refused * kept + (accepted < both))


@dataclass(frozen=True, slots=True)
class StepCost:
    """Times of an engine's steps with about as many sequences, in seconds.

    `plain_s` is the mean of those without drafts, `plain_steps` of them, None before the first. Of
    those with drafts there are sums, the newest weighing most, of what they took beyond that: of
    `weight` steps, their drafts, squares, times, and products.
    """

    plain_s: float | None = None
    plain_steps: int = 0
    weight: float = 0.0
    drafts: float = 0.0
    squares: float = 0.0
    beyond_s: float = 0.0
    products: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether steps with drafts can be compared with those without."""
        return self.plain_s is not None and self.weight >= LEAST_STEPS * (1 - NEWEST_STEP_WEIGHT)

    def beyond(self, drafts: int) -> float:
        """Seconds that a step takes longer with so many drafts, never below 0. Linear, or
        proportional where all steps had about as many."""
        if drafts == 0 or self.weight == 0:
            return 0.0
        mean, mean_s = self.drafts / self.weight, self.beyond_s / self.weight
        spread = self.squares / self.weight - mean * mean
        if spread < 0.25:
            return max(0.0, mean_s) * max(1.0, drafts / mean)
        row_s = max(0.0, (self.products / self.weight - mean * mean_s) / spread)
        return max(0.0, mean_s + row_s * (drafts - mean))


def observe_cost(cost: StepCost, *, took_s: float, drafts: int) -> StepCost:
    """Learn from a step that read no prompt. One with drafts teaches nothing before one without."""
    if cost.plain_s is None:
        return cost if drafts else replace(cost, plain_s=took_s, plain_steps=1)
    rows = 1 if cost.is_known else 1 + drafts
    took_s = min(took_s, MOST_TIMES_MEAN * rows * (cost.plain_s + cost.beyond(drafts)))
    if drafts == 0:
        steps = cost.plain_steps + 1
        newest = max(NEWEST_STEP_WEIGHT, 1 / steps)
        mean_s = cost.plain_s + (took_s - cost.plain_s) * newest
        return replace(cost, plain_s=mean_s, plain_steps=steps)
    kept, beyond_s = 1.0 - NEWEST_STEP_WEIGHT, took_s - cost.plain_s
    return replace(
        cost,
        weight=cost.weight * kept + 1.0,
        drafts=cost.drafts * kept + drafts,
        squares=cost.squares * kept + drafts * drafts,
        beyond_s=cost.beyond_s * kept + beyond_s,
        products=cost.products * kept + drafts * beyond_s,
    )


@dataclass(frozen=True, slots=True)
class Offered:
    """So many tokens are drafted for a sequence, each of which is accepted by this chance."""

    tokens: int
    chance: float


def draft_lengths(
    offered: Sequence[Offered], cost: StepCost, *, sequences: int
) -> tuple[list[int], str]:
    """Of each draft, how many tokens the next step of `sequences` verifies, and the reason."""
    none = [0] * len(offered)
    if not any(draft.tokens for draft in offered):
        return none, "no draft"
    if cost.plain_s is None or cost.plain_steps < LEAST_PLAIN_STEPS:
        return none, "measuring steps without drafts"
    if not cost.is_known:
        return [draft.tokens for draft in offered], "measuring steps with drafts"
    by_gain = sorted(
        (
            (draft.chance**place, at)
            for at, draft in enumerate(offered)
            for place in range(1, draft.tokens + 1)
        ),
        reverse=True,
    )
    made, best, count = float(sequences), sequences / cost.plain_s * (1 + LEAST_GAIN), 0
    for drafts, (gain, _) in enumerate(by_gain, 1):
        made += gain
        rate = made / (cost.plain_s + cost.beyond(drafts))
        if rate > best:
            best, count = rate, drafts
    if count == 0:
        return none, "a step with drafts makes fewer tokens a second"
    lengths = none
    for _, at in by_gain[:count]:
        lengths[at] += 1
    return lengths, "more tokens a second"
