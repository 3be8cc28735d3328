"""Whether an engine's KV pool will hold what runs until it ends, and how much more.

An engine that is given more puts sequences out of its pool and reads their tokens again, and lets
prompts wait inside, where nobody forwards them. As the Past-Future scheduler has it (Gong et al.,
ASPLOS 2025): of sequences in order of what each still gets, longest first, the pool is fullest just
before one of them ends; by then it and those that stay longer have got what it still got.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from operator import add, itemgetter, mul

# Of the pool, what as many sequences as it is given hold on average: not all of them end in turn.
MEAN_SHARE = 0.95
NO_LIMIT = 1 << 30

# What a request holds of the pool, and what it still gets, in tokens.
Held = tuple[float, float]


def peak_tokens(requests: Iterable[Held]) -> float:
    """The most tokens that these will hold at once, if no other comes."""
    ranked = sorted(requests, key=itemgetter(1), reverse=True)
    held = accumulate(map(itemgetter(0), ranked))
    got = map(mul, count(1), map(itemgetter(1), ranked))
    return max(map(add, held, got), default=0.0)


def ends_before(one: Held, present: Sequence[Held], pool_tokens: float) -> int:
    """How many of those present end before the pool has room for another one: they do so in order
    of what they still get, and meanwhile the others get as much."""
    ranked = sorted(present, key=itemgetter(1))

    def fits(ends: int) -> bool:
        passed = ranked[ends - 1][1] if ends else 0.0
        later = one[0] - passed, one[1] + passed
        return peak_tokens([later, *ranked[ends:]]) <= pool_tokens

    return bisect_left(range(len(ranked)), True, key=fits)


@dataclass(frozen=True, slots=True)
class AnswersLeft:
    """What answers still get that have some tokens already, by the lengths of others. Where there
    are none yet, `expected_tokens` of one without a limit."""

    expected_tokens: float
    # In order, and the sums of the first 0, 1, 2, ... of them.
    _lengths: Sequence[int]
    _sums: Sequence[float]
    # What is there of an answer at a moment; longer ones are there for longer.
    held_tokens: float

    @classmethod
    def learn(cls, lengths: Iterable[int], expected_tokens: float) -> "AnswersLeft":
        ranked = sorted(lengths)
        sums = (0.0, *accumulate(ranked))
        squares = sum(length * length for length in ranked)
        held_tokens = squares / (2 * sums[-1]) if sums[-1] else expected_tokens / 2
        return cls(expected_tokens, ranked, sums, held_tokens)

    def whole_tokens(self, limit: int) -> float:
        """The expected length of one that is there at a moment."""
        if self._lengths or limit >= NO_LIMIT:
            return min(2 * self.held_tokens, limit)
        return limit

    def after(self, tokens: float, limit: int) -> float:
        """The mean of those that are longer. Of one that is longer than all others as much is left
        as there is half of; without any lengths it goes to its limit."""
        ranked = self._lengths
        longer = bisect_right(ranked, tokens)
        if longer < len(ranked):
            left = (self._sums[-1] - self._sums[longer]) / (len(ranked) - longer) - tokens
        elif ranked or limit >= NO_LIMIT:
            left = max(tokens / 2, 0.0 if ranked else self.expected_tokens - tokens)
        else:
            left = limit - tokens
        return max(1.0, min(left, limit - tokens))
