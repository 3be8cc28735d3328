"""How many conversations a replica has that are likely to go on."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from serve_app.core.prefix.prompt_chunks import Chunk

# One without a turn for so many times the usual gap between two turns is over: of gaps that are
# distributed exponentially one in twenty is longer.
LIVE_GAPS = 3.0
# Before any second turn a gap is taken to be so long; about the last twenty count. Whatever the
# gaps, one counts for at least and at most so long.
FIRST_GAP_S, NEWEST_WEIGHT = 10.0, 0.05
LEAST_LIVE_S, MOST_LIVE_S = 3.0, 300.0


@dataclass(slots=True)
class LiveConversations:
    """By the last chunk of each one's newest prompt."""

    gap_s: float = FIRST_GAP_S
    _turn_s: OrderedDict[Chunk, float] = field(default_factory=OrderedDict[Chunk, float])

    @property
    def live_s(self) -> float:
        """For how long a conversation counts after a turn."""
        return min(max(LIVE_GAPS * self.gap_s, LEAST_LIVE_S), MOST_LIVE_S)

    def turn(self, chunks: Sequence[Chunk], now_s: float) -> None:
        """One began, or goes on: what begins with an earlier prompt replaces it."""
        for chunk in reversed(chunks):
            if (before_s := self._turn_s.pop(chunk, None)) is not None:
                # One that has not grown may be another with the same begin.
                if chunk != chunks[-1]:
                    self.gap_s += NEWEST_WEIGHT * (now_s - before_s - self.gap_s)
                break
        if chunks:
            self._turn_s[chunks[-1]] = now_s
        self._forget(now_s)

    def count(self, now_s: float) -> int:
        """Those with a turn in the last while."""
        self._forget(now_s)
        live_s = self.live_s
        # They are in the order of their turns.
        newest = reversed(self._turn_s.values())
        return sum(1 for _ in takewhile(lambda turn_s: now_s - turn_s <= live_s, newest))

    def _forget(self, now_s: float) -> None:
        first_s = now_s - MOST_LIVE_S
        while self._turn_s and next(iter(self._turn_s.values())) < first_s:
            self._turn_s.popitem(last=False)
