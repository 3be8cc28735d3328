"""Which answer policy wins, from the problems' scores and tokens: pure decisions on numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.report import statistics as figures
from loadtest.report.statistics import Estimate

# What a policy may lose at most, and how near to the best one counts as being as good.
MARGIN = 0.01
# No dearer than the default, but for the noise of a mean.
MOST_TOKENS_RATIO = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Of each problem, in one order for all policies: the fraction of its runs that were right, and
    the mean of their tokens, those that no client sees among them."""

    scores: Sequence[float]
    tokens: Sequence[float]

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.scores))

    @property
    def mean_tokens(self) -> float:
        return float(np.mean(self.tokens))


@dataclass(frozen=True, slots=True)
class Difference:
    """To the default: accuracy less its accuracy, and tokens as a ratio of its tokens."""

    accuracy: Estimate
    tokens: Estimate


@dataclass(frozen=True, slots=True)
class Choice:
    """The policy by its name, and why."""

    name: str
    reason: str


def difference(default: Measured, other: Measured, *, comparisons: int = 1) -> Difference:
    """By a paired bootstrap over problems: both of a pair are drawn together. The intervals are as
    wide as it takes for all of so many comparisons to hold at once with 95 % (Bonferroni).

    Where two policies differ in no problem a bootstrap has no width, however few the problems are.
    So accuracy is drawn with one problem more that is won and one that is lost (Bonett and Price,
    J. Educ. Behav. Stat. 37(4), 2012): 48 problems without a difference leave 6 points open."""
    gained = np.subtract(other.scores, default.scores)
    widened = np.append(gained, (1.0, -1.0))
    spent, before = np.asarray(other.tokens, float), np.asarray(default.tokens, float)
    tail = (1 - figures.CONFIDENCE) / comparisons / 2 * 100

    def estimate(value: float, count: int, statistic: Callable[[Any], Any]) -> Estimate:
        drawn = figures.bootstrap(count, statistic, resamples=figures.RESAMPLES_OF_MEANS)
        low, high = np.percentile(drawn, [tail, 100 - tail])
        return Estimate(value, float(low), float(high))

    return Difference(
        estimate(float(gained.mean()), len(widened), lambda picks: widened[picks].mean(axis=1)),
        estimate(
            float(spent.sum() / before.sum()),
            len(spent),
            lambda picks: spent[picks].sum(axis=1) / before[picks].sum(axis=1),
        ),
    )


def choose(
    default: str,
    measured: Mapping[str, Measured],
    differences: Mapping[str, Difference],
    *,
    most_tokens_ratio: float = MOST_TOKENS_RATIO,
    margin: float = MARGIN,
) -> Choice:
    """(1) Candidates have lost less than `margin` of accuracy, and cost at most so many tokens as a
    ratio of the default's: the whole intervals say so.
    (2) They are surely more often right, or surely cheaper.
    (3) Of these the cheapest of those whose accuracy is within `margin` of the best one's.
    Without any the default stays."""
    kept = {
        name: found
        for name, found in differences.items()
        if found.accuracy.low >= -margin and found.tokens.high <= max(most_tokens_ratio, 0.0)
    }
    gaining = [
        name for name, found in kept.items() if found.accuracy.low > 0 or found.tokens.high < 1
    ]
    if not gaining:
        return Choice(default, _why_none(default, differences, kept, margin, most_tokens_ratio))
    best = max(measured[name].accuracy for name in gaining)
    near = [name for name in gaining if measured[name].accuracy >= best - margin]
    chosen = min(near, key=lambda name: measured[name].mean_tokens)
    found = differences[chosen]
    return Choice(
        chosen,
        f"{100 * found.accuracy.value:+.1f} points of accuracy "
        f"({100 * found.accuracy.low:+.1f} to {100 * found.accuracy.high:+.1f}) with "
        f"{found.tokens.value:.2f} times the tokens of {default} ({found.tokens.low:.2f} to "
        f"{found.tokens.high:.2f})",
    )


def frontier(measured: Mapping[str, Measured]) -> list[str]:
    """Those than which no other one is at least as often right with at most as many tokens, by
    their tokens."""
    order = sorted(
        measured, key=lambda name: (measured[name].mean_tokens, -measured[name].accuracy)
    )
    found: list[str] = []
    for name in order:
        if not found or measured[name].accuracy > measured[found[-1]].accuracy:
            found.append(name)
    return found


def _why_none(
    default: str,
    differences: Mapping[str, Difference],
    kept: Mapping[str, Difference],
    margin: float,
    most_tokens_ratio: float,
) -> str:
    if not differences:
        return f"{default} was measured alone"
    if kept:
        return f"no other policy is surely more often right than {default}, or surely cheaper"
    return (
        f"each other policy may lose {100 * margin:.1f} points of accuracy or more, or costs more "
        f"than {most_tokens_ratio:.2f} times the tokens of {default}"
    )
