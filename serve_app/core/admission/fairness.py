"""Whose request it is, for a gate that is fair among its callers."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from serve_app.core.access.access_key import Priority

# Work of a background flow counts so many times: beside one interactive flow with as much to do it
# gets an eleventh of the GPU, and never nothing.
BACKGROUND_COST = 10.0
LEAST_WEIGHT, MOST_WEIGHT = 1e-3, 1e3


@dataclass(frozen=True, slots=True)
class Flow:
    """The requests of one caller: what is fair is so among flows. One with twice the `weight` of
    another has twice the work done while both have requests waiting."""

    name: str
    weight: float = 1.0
    priority: Priority = Priority.INTERACTIVE

    @property
    def rank(self) -> float:
        """The weight that counts, by priority as well."""
        cost = BACKGROUND_COST if self.priority is Priority.BACKGROUND else 1.0
        return min(max(self.weight, LEAST_WEIGHT), MOST_WEIGHT) / cost


# Of all who have no key.
ANONYMOUS = Flow("")


class Presence(NamedTuple):
    """How many requests of a flow wait, how many sequences of it run or wait, and its share by
    weight among the flows that have any."""

    queued: int
    sequences: int
    share: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What a flow's next request would find. Counts are requests; of its own and of others, and of
    others only what would begin before it.

    `share`: its weight among the flows that have something waiting or running, 1 for the only one.
    `drain_share`: which part of the starts are its own, while it waits: more than its share where
    the others need less than theirs.
    """

    queued: int = 0
    others_queued: int = 0
    others_ahead: int = 0
    # Of the prompts that are prefilled before it, and those of its own among them.
    tokens_ahead: float = 0.0
    own_tokens: float = 0.0
    # Of its own, that run or wait.
    sequences: int = 0
    share: float = 1.0
    drain_share: float = 1.0

    @property
    def ahead(self) -> int:
        """How many begin before it."""
        return self.queued + self.others_ahead

    @property
    def starts_ahead(self) -> int:
        """The same with those of others that will come and begin before it."""
        return max(self.ahead, self.starts(self.queued))

    def starts(self, own: int) -> int:
        """How many requests begin while so many of its own do."""
        return math.ceil(own / self.drain_share)

    def below_share(self, sequences: int, slots: int) -> bool:
        """Whether others keep it from what would be its own: with so many sequences more it has no
        more than its share of the slots, to the next whole one."""
        return self.share < 1 and self.sequences + sequences <= math.floor(self.share * slots + 0.5)
