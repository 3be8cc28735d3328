"""A policy as it is named on the command line: what is asked with it, and a tier's settings that
make it its default."""

import argparse
import re
from dataclasses import dataclass
from typing import Any, Self

from serve_app.core.reasoning.answer_policy import AnswerPolicy

_FORM = re.compile(r"([a-z_]+)(?::([0-9]{1,6}))?(?:@([0-9]{1,6}))?")
# The setting of a tier that the number behind a name is.
NUMBERS = {
    AnswerPolicy.LEAN: "lean_bias",
    AnswerPolicy.EARLY_EXIT: "trial_every_tokens",
    AnswerPolicy.PAIR: "trial_every_tokens",
    AnswerPolicy.VOTE: "vote_samples",
}


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """`number` is the policy's own, `budget_tokens` the most of its reasoning; None: the tier's."""

    policy: AnswerPolicy
    number: int | None = None
    budget_tokens: int | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """`NAME[:NUMBER][@BUDGET]`; of `truncate` the number is the budget. Raises argparse's
        error."""
        found = _FORM.fullmatch(text)
        if found is None or found[1] not in list(AnswerPolicy):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no policy: one of {', '.join(AnswerPolicy)}, as in vote, vote:3, "
                "truncate:256 or early_exit:32@512"
            )
        policy = AnswerPolicy(found[1])
        number, budget = (None if part is None else int(part) for part in found.groups()[1:])
        if policy is AnswerPolicy.TRUNCATE and number is not None:
            if budget is not None:
                raise argparse.ArgumentTypeError(f"{text!r} names two budgets")
            number, budget = None, number
        if number is not None and policy not in NUMBERS:
            raise argparse.ArgumentTypeError(f"{policy} takes no number: write {policy}")
        if budget is not None and (policy is AnswerPolicy.DIRECT or budget == 0):
            raise argparse.ArgumentTypeError("without reasoning there is no budget: write direct")
        return cls(policy, number, budget)

    @property
    def field(self) -> str:
        """`answer_policy` of a request."""
        return str(self.policy) if self.number is None else f"{self.policy}:{self.number}"

    def __str__(self) -> str:
        if self.policy is AnswerPolicy.TRUNCATE and self.budget_tokens is not None:
            return f"{self.policy}:{self.budget_tokens}"
        return self.field if self.budget_tokens is None else f"{self.field}@{self.budget_tokens}"

    @property
    def folder(self) -> str:
        return str(self).replace(":", "-").replace("@", "-at-")

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Of a tier's `user_config`."""
        answers: dict[str, Any] = {"policy": str(self.policy)}
        if self.number is not None:
            answers[NUMBERS[self.policy]] = self.number
        if self.budget_tokens is None:
            return {"answers": answers}
        return {"answers": answers, "thinking": {"budget_tokens": self.budget_tokens}}
