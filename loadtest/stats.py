"""Figures of one repetition, their summary over repetitions, and intervals of comparisons."""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Repetition:
    """One timed run of one system. `chunks`: events with tokens that the client received;
    `foreign_cores`: CPU used by neither server nor client; `cpu_by_part_s`: the server's, by what
    its processes are (`process_cpu.cpu_by_part_s`)."""

    output_tokens: int
    chunks: int
    wall_s: float
    server_cpu_s: float
    client_cpu_s: float
    foreign_cores: float
    ttft_s: Sequence[float]
    itl_s: Sequence[float]
    cpu_by_part_s: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / self.wall_s

    @property
    def cpu_s_per_ktoken(self) -> float:
        return self.server_cpu_s / self.output_tokens * 1e3

    @property
    def chunks_per_s(self) -> float:
        return self.chunks / self.wall_s

    @property
    def cpu_s_per_kchunk(self) -> float:
        return self.server_cpu_s / self.chunks * 1e3


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


def pooled_ms(repetitions: Sequence[Repetition], field: str, percent: int) -> float:
    values = np.concatenate([np.asarray(getattr(each, field)) for each in repetitions])
    return float(np.percentile(values, percent)) * 1e3


def summary(repetitions: Sequence[Repetition]) -> dict[str, float]:
    """The results file's row: rates are medians of repetitions, latencies are pooled."""
    return {
        "tokens_per_s": round(statistics.median(r.tokens_per_s for r in repetitions), 1),
        "ttft_p50_ms": round(pooled_ms(repetitions, "ttft_s", 50), 2),
        "ttft_p95_ms": round(pooled_ms(repetitions, "ttft_s", 95), 2),
        "itl_p50_ms": round(pooled_ms(repetitions, "itl_s", 50), 2),
        "cpu_s_per_ktoken": round(statistics.median(r.cpu_s_per_ktoken for r in repetitions), 3),
    }


def cpu_s_per_ktoken_by_part(repetitions: Sequence[Repetition]) -> dict[str, float]:
    """Medians of the repetitions."""
    parts = sorted({part for each in repetitions for part in each.cpu_by_part_s})
    return {
        part: round(
            statistics.median(
                each.cpu_by_part_s.get(part, 0.0) / each.output_tokens * 1e3 for each in repetitions
            ),
            4,
        )
        for part in parts
    }


def rate_ratio(pairs: Sequence[Pair], rate: str = "tokens_per_s") -> float:
    """Median of `other / base` over the pairs: drift of the machine cancels within a pair."""
    return statistics.median(getattr(other, rate) / getattr(base, rate) for base, other in pairs)


def added_ms(pairs: Sequence[Pair], field: str, percent: int) -> float:
    """Difference of the percentiles that `summary` gives for the two systems."""
    base, other = zip(*pairs, strict=True)
    return pooled_ms(other, field, percent) - pooled_ms(base, field, percent)


def estimate(pairs: Sequence[Pair], statistic: Callable[[Sequence[Pair]], float]) -> Estimate:
    """Percentile bootstrap over pairs: the requests of one repetition are not independent."""
    dice = random.Random(len(pairs))
    drawn = sorted(statistic(dice.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    tail = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return Estimate(statistic(pairs), low=drawn[tail], high=drawn[-tail - 1])
