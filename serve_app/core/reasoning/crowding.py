"""How long reasoning with a deadline may be while others wait for its slots.

Where more comes than full answers leave time for, somebody is refused or late, and an answer that
nobody gets is right for nobody. Reasoning that is shortened a little loses less: most of what it
loses is the long tail, in which a result is worked out again and again.

1. `ReasoningLengths` learns the mean length of reasoning that nobody ends.
2. For those that wait to be served in the time of those that run, the mean must shrink to
   `running / (running + waiting)` of itself.
3. Lengths are taken as exponential: ended at B, their mean is m (1 - exp(-B / m)), which gives B.

The queue regulates itself by it: at twice what full answers leave time for, as many wait as run.
"""

import math
from dataclasses import dataclass

# So many ended sequences are what is known of the length; older ones fade.
KNOWN_ENDS = 200.0
# Of fewer nothing is concluded.
LEAST_ENDS = 5.0


@dataclass(slots=True)
class ReasoningLengths:
    """Sums that forget: of reasoning tokens, and of reasoning that the model itself has ended. What
    was ended before counts with the tokens that it had: all tokens by all natural ends is the
    likeliest mean of exponential lengths some of which are cut off (censored; Epstein and Sobel,
    Life Testing, J. Am. Stat. Assoc. 48, 1953)."""

    tokens: float = 0.0
    natural_ends: float = 0.0
    ends: float = 0.0

    def observe(self, tokens: int, *, natural: bool) -> None:
        """One sequence's reasoning is over, by the model's own will or not."""
        if not tokens:
            return
        kept = 1 - 1 / KNOWN_ENDS
        self.tokens = self.tokens * kept + tokens
        self.natural_ends = self.natural_ends * kept + natural
        self.ends = self.ends * kept + 1

    @property
    def mean_tokens(self) -> float | None:
        """None where too little is known."""
        if self.ends < LEAST_ENDS or self.natural_ends <= 0:
            return None
        return self.tokens / self.natural_ends


def limit_tokens(
    mean_tokens: float | None, *, running: int, waiting: int, least_share: float
) -> float | None:
    """The most tokens of reasoning for one of so many that run; None where nothing is shortened.
    `least_share`: what of the mean each may have, however many wait; at 1 nobody is shortened."""
    if mean_tokens is None or waiting <= 0 or least_share >= 1:
        return None
    share = max(1, running) / (max(1, running) + waiting)
    return mean_tokens * max(least_share, -math.log1p(-share))
