"""How many replicas would have kept the SLO over a while, and not at each moment of it.

An SLO is for a fraction of the requests, whenever they come. The load varies by chance at every
level, so now and then a moment asks for one more replica than the others do, with which a little
more than that fraction would be late. The most that any moment of a hold asked for is too many for
the hold as a whole: what each count would have missed is summed up over it instead. A moment at
which most requests would have missed the SLO outweighs a minute of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

SAMPLE_S = 1.0
# A gap that is longer, as when reports are missing, says nothing of what was needed in it.
LONGEST_GAP_S = 5.0


@dataclass(frozen=True, slots=True)
class MissShares:
    """The fraction of the requests that miss the SLO by the count of replicas: `shares` from
    `first` replicas on, all of them with fewer, none with more."""

    first: int
    shares: tuple[float, ...]

    def with_count(self, count: int) -> float:
        """The fraction with so many replicas."""
        at = count - self.first
        if at < 0:
            return 1.0
        return self.shares[at] if at < len(self.shares) else 0.0

    def at_least(self, count: int) -> "MissShares":
        """The same where all requests miss it with fewer than `count` replicas."""
        more = max(0, count - self.first)
        return replace(self, first=self.first + more, shares=self.shares[more:])


@dataclass(frozen=True, slots=True)
class MissSample:
    """What would be missed of arrivals at `rate_rps` at a moment."""

    at_s: float
    rate_rps: float
    shares: MissShares


def is_due(samples: Sequence[MissSample], now_s: float) -> bool:
    """Whether the next sample is to be taken."""
    return not samples or now_s - samples[-1].at_s >= SAMPLE_S


def remember_misses(
    samples: Sequence[MissSample], sample: MissSample, *, longest_s: float
) -> tuple[MissSample, ...]:
    """With a new sample, of windows of up to `longest_s`. After a gap they begin anew."""
    if samples and sample.at_s - samples[-1].at_s > LONGEST_GAP_S:
        return (sample,)
    since_s = sample.at_s - longest_s
    first = next((at for at, known in enumerate(samples) if known.at_s > since_s), len(samples))
    # The last one before a window shows that it is covered.
    return (*samples[max(0, first - 1) :], sample)


def fewest_over(
    samples: Sequence[MissSample], now_s: float, window_s: float, *, allowed: float, most: int
) -> int:
    """The fewest replicas with which at most the fraction `allowed` of the requests of the window
    would have missed the SLO, `most` if no fewer would do or the samples do not cover it."""
    if not samples or now_s - samples[0].at_s < window_s:
        return most
    recent = [sample for sample in samples if now_s - sample.at_s <= window_s]
    allowed_rps = allowed * sum(sample.rate_rps for sample in recent)

    def enough(count: int) -> bool:
        missed = (sample.rate_rps * sample.shares.with_count(count) for sample in recent)
        return sum(missed) <= allowed_rps

    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
