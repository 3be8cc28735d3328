"""How a request's tokens are spent on its answer, beyond how many they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class AnswerPolicy(StrEnum):
    """`truncate`: reason up to the budget, then answer. `direct`: no reasoning. `lean`: the end of
    the reasoning is made likelier as its budget is spent. `early_exit`: end the reasoning once its
    trial answers agree. `pair`: a direct answer beside the reasoning, which ends once it agrees.
    `vote`: the answer of most of several samples."""

    TRUNCATE = "truncate"
    DIRECT = "direct"
    LEAN = "lean"
    EARLY_EXIT = "early_exit"
    PAIR = "pair"
    VOTE = "vote"


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """What tier and request have chosen. A trial answer is asked for every `trial_every_tokens` of
    the reasoning, and has `trial_tokens` at most; `samples` run side by side, each in a slot."""

    policy: AnswerPolicy
    trial_every_tokens: int = 64
    trial_tokens: int = 24
    samples: int = 1
    # As `lean.Lean` has them.
    lean_most: float = 0.0
    lean_begins_at: float = 0.0

    def unseen_tokens(self, max_new_tokens: int) -> int:
        """The most tokens that are made beside those of a sequence of `max_new_tokens`."""
        if self.policy not in (AnswerPolicy.EARLY_EXIT, AnswerPolicy.PAIR):
            return 0
        return max_new_tokens // self.trial_every_tokens * self.trial_tokens


def read_policy(fields: Mapping[str, Any]) -> PolicyPlan:
    """The plan whose fields these are, as JSON has them. Raises TypeError, KeyError or ValueError
    for another version's."""
    others = {name: value for name, value in fields.items() if name != "policy"}
    return PolicyPlan(AnswerPolicy(fields["policy"]), **others)
