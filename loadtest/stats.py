"""Figures of one repetition, their summary over repetitions, and intervals of comparisons."""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Repetition:
    """One timed run of one system. `foreign_cores`: CPU used by neither server nor client."""

    output_tokens: int
    wall_s: float
    server_cpu_s: float
    client_cpu_s: float
    foreign_cores: float
    ttft_s: Sequence[float]
    itl_s: Sequence[float]

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / self.wall_s

    @property
    def cpu_s_per_ktoken(self) -> float:
        return self.server_cpu_s / self.output_tokens * 1e3


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def rounded(self, digits: int) -> dict[str, float]:
        return {
            "value": round(self.value, digits),
            "low": round(self.low, digits),
            "high": round(self.high, digits),
        }


Pair = tuple[Repetition, Repetition]


def percentile(values: Sequence[float], percent: int) -> float:
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def pooled_ms(repetitions: Sequence[Repetition], field: str, percent: int) -> float:
    values = [value for repetition in repetitions for value in getattr(repetition, field)]
    return percentile(values, percent) * 1e3


def summary(repetitions: Sequence[Repetition]) -> dict[str, float]:
    """The results file's row: rates are medians of repetitions, latencies are pooled."""
    return {
        "tokens_per_s": round(statistics.median(r.tokens_per_s for r in repetitions), 1),
        "ttft_p50_ms": round(pooled_ms(repetitions, "ttft_s", 50), 2),
        "ttft_p95_ms": round(pooled_ms(repetitions, "ttft_s", 95), 2),
        "itl_p50_ms": round(pooled_ms(repetitions, "itl_s", 50), 2),
        "cpu_s_per_ktoken": round(statistics.median(r.cpu_s_per_ktoken for r in repetitions), 3),
    }


def throughput_ratio(pairs: Sequence[Pair]) -> float:
    """Median of `other / base` over the pairs: drift of the machine cancels within a pair."""
    return statistics.median(other.tokens_per_s / base.tokens_per_s for base, other in pairs)


def added_ttft_ms(pairs: Sequence[Pair], percent: int) -> float:
    base, other = zip(*pairs, strict=True)
    return pooled_ms(other, "ttft_s", percent) - pooled_ms(base, "ttft_s", percent)


def estimate(pairs: Sequence[Pair], statistic: Callable[[Sequence[Pair]], float]) -> Estimate:
    """Percentile bootstrap over pairs: the requests of one repetition are not independent."""
    dice = random.Random(len(pairs))
    drawn = sorted(statistic(dice.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    tail = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return Estimate(statistic(pairs), low=drawn[tail], high=drawn[-tail - 1])
