"""From measured steps and first tokens to a card's figures, by a robust fit with none below 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from loadtest.calibration.samples import FirstToken, Step

Numbers = NDArray[np.float64]
# By so much, as a share, the straight line may miss a step that nothing disturbed: the full batch
# is one wave of a round, and what it says must count.
USUAL_OFF = 0.3
ITERATIONS = 50


class TooLittle(ValueError):
    """The samples do not tell the figures apart."""


@dataclass(frozen=True, slots=True)
class Fit:
    """`names` with their `values`; of each sample what was measured and what the fit says."""

    names: tuple[str, ...]
    values: tuple[float, ...]
    measured_ms: tuple[float, ...]
    fitted_ms: tuple[float, ...]

    def __getitem__(self, name: str) -> float:
        return self.values[self.names.index(name)]

    @property
    def off_by(self) -> tuple[float, ...]:
        """Of each sample: how far the fit is above what was measured, as a share of it."""
        pairs = zip(self.fitted_ms, self.measured_ms, strict=True)
        return tuple(fitted / measured - 1 for fitted, measured in pairs)

    @property
    def r2(self) -> float:
        """Of the variance of what was measured, the share that the fit explains."""
        measured, fitted = np.array(self.measured_ms), np.array(self.fitted_ms)
        spread = float(((measured - measured.mean()) ** 2).sum())
        return 1.0 - float(((measured - fitted) ** 2).sum()) / spread if spread else 1.0

    def words(self) -> str:
        """`24 samples, R2 0.991, off by 2.1 % (median) and 6.0 % (worst)`."""
        off = np.abs(self.off_by)
        return (
            f"{len(off)} samples, R2 {self.r2:.3f}, off by {np.median(off):.1%} (median) and "
            f"{off.max():.1%} (worst)"
        )


def fit_steps(steps: Sequence[Step]) -> Fit:
    """`base_ms`, `per_sequence_ms` and `per_context_ktoken_ms` of decode steps."""
    if len({step.sequences for step in steps}) < 2:
        raise TooLittle("Steps of one batch size only: they tell no cost of a sequence.")
    columns = {
        "base_ms": [1.0 for _ in steps],
        "per_sequence_ms": [float(step.sequences) for step in steps],
        "per_context_ktoken_ms": [step.context_tokens / 1e3 for step in steps],
    }
    return _fit(columns, [step.step_ms for step in steps])


def fit_first_tokens(first_tokens: Sequence[FirstToken], steps: Fit) -> Fit:
    """`overhead_ms` and `per_prompt_token_ms`, of prompts that were alone.

    What a first token takes beyond the base of its step is the way of the request and its prompt:
    a sequence costs `per_sequence_ms` from its second token on.
    """
    if len({first.prompt_tokens for first in first_tokens}) < 2:
        raise TooLittle("Prompts of one length only: they tell no cost of a prompt token.")
    columns = {
        "overhead_ms": [1.0 for _ in first_tokens],
        "per_prompt_token_ms": [float(first.prompt_tokens) for first in first_tokens],
    }
    ttft_ms = [first.ttft_ms for first in first_tokens]
    return _fit(columns, ttft_ms, known_ms=steps["base_ms"])


def _fit(
    columns: dict[str, list[float]], measured_ms: Sequence[float], known_ms: float = 0.0
) -> Fit:
    """Relative errors: a step of 5 ms counts as much as one of 100 ms.

    Huber's loss, by least squares with new weights until they stay: an error counts by its square
    up to `USUAL_OFF`, and beyond it by its size, so that a wave that something else disturbed does
    not pull the others with it.
    """
    table = np.array(list(columns.values())).T
    measured = np.array(measured_ms)
    relative, wanted = table / measured[:, None], 1.0 - known_ms / measured
    values = least_squares_from_0(relative, wanted)
    for _ in range(ITERATIONS):
        off = np.maximum(np.abs(wanted - relative @ values), 1e-12)
        root = np.sqrt(np.minimum(1.0, USUAL_OFF / off))
        values = least_squares_from_0(relative * root[:, None], wanted * root)
    fitted = table @ values + known_ms
    return Fit(
        tuple(columns),
        tuple(map(float, values)),
        tuple(map(float, measured)),
        tuple(map(float, fitted)),
    )


def least_squares_from_0(table: Numbers, wanted: Numbers) -> Numbers:
    """The x >= 0 that brings `table @ x` closest to `wanted`.

    At the optimum the columns that are not at 0 solve their own unbounded problem, so the best of
    all subsets that solve theirs with positive values is exact; there are three columns at most.
    """
    count = table.shape[1]
    best, least = np.zeros(count), float(wanted @ wanted)
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            part, *_ = np.linalg.lstsq(table[:, chosen], wanted, rcond=None)
            off = wanted - table[:, chosen] @ part
            if (part >= 0).all() and float(off @ off) < least:
                least = float(off @ off)
                best = np.zeros(count)
                best[list(chosen)] = part
    return best
