"""How much likelier the end of the reasoning is made, by how much of its budget is spent."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lean:
    """`most` is added to the logit of the reasoning's end once the whole budget is spent, nothing
    before the fraction `begins_at` of it, and in between what lies between."""

    most: float
    begins_at: float

    def bias(self, spent_tokens: int, budget_tokens: int) -> float:
        """With so many tokens of the budget spent; never below 0, nor above `most`."""
        if budget_tokens < 1:
            return 0.0
        share = (spent_tokens / budget_tokens - self.begins_at) / (1.0 - self.begins_at)
        return self.most * min(1.0, max(0.0, share))
