"""When an answer is endless repetition, which a small reasoning model falls into."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Repetition:
    """The same stretch of `least_tokens` to `most_tokens` tokens, `times` times in a row."""

    least_tokens: int
    most_tokens: int
    times: int


# A loop shorter than 8 tokens is also one of a multiple of its length, so it is found too; what is
# spared are the six zeros of a million and short rows of dots. Each length costs half a microsecond
# of the engine's time when it looks, so the longest loop, some sentences, is what bounds it.
ENDLESS = Repetition(least_tokens=8, most_tokens=96, times=6)
