"""From what was measured to a GPU's figures, by a robust fit with none below 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from loadtest.calibration.samples import BusyTime, FirstToken, Step
from loadtest.errors import UserError
from loadtest.simulation.profile import pairs

Numbers = NDArray[np.float64]
Bools = NDArray[np.bool_]
CONTEXT, PROMPT = "per_context_ktoken_ms", "per_prompt_ms"
# By so much, as a fraction, the straight line may miss a step that nothing disturbed: the full
# batch is one wave of a round, and what it says must count.
USUAL_OFF = 0.3
ITERATIONS = 50
# The samples do not tell the figures apart.
TOO_LITTLE = "Too little was measured for a profile."
LEAST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Fit:
    """`names` with their `values` and the `standard_errors` of these; of each sample what was
    measured and what the fit says."""

    names: tuple[str, ...]
    values: tuple[float, ...]
    standard_errors: tuple[float, ...]
    measured_ms: tuple[float, ...]
    fitted_ms: tuple[float, ...]

    def __getitem__(self, name: str) -> float:
        return self.values[self.names.index(name)]

    @property
    def off_by(self) -> tuple[float, ...]:
        """Of each sample: how far the fit is above what was measured, as a fraction of it."""
        pairs = zip(self.fitted_ms, self.measured_ms, strict=True)
        return tuple(fitted / measured - 1 for fitted, measured in pairs)

    @property
    def r2(self) -> float:
        """Of the variance of what was measured, the fraction that the fit explains."""
        measured, fitted = np.array(self.measured_ms), np.array(self.fitted_ms)
        spread = float(((measured - measured.mean()) ** 2).sum())
        return 1.0 - float(((measured - fitted) ** 2).sum()) / spread if spread else 1.0

    @property
    def typical_off(self) -> float:
        """How far the fit is off a sample, as a fraction: the median of its errors."""
        return float(np.median(np.abs(self.off_by)))

    def uncertainty(self, name: str) -> float:
        """Of a figure, as a fraction of it: two standard errors, and no less than what the fit is
        typically off by, which also has what changes with the machine's moments. Of a figure that
        came out as 0 there is none to tell."""
        at = self.names.index(name)
        if not self.values[at]:
            return 0.0
        return max(2 * self.standard_errors[at] / self.values[at], self.typical_off)

    def words(self) -> str:
        """`24 samples, R2 0.991, off by 2.1 % (median) and 6.0 % (worst)`."""
        off = np.abs(self.off_by)
        return (
            f"{len(off)} samples, R2 {self.r2:.3f}, off by {self.typical_off:.1%} (median) and "
            f"{off.max():.1%} (worst)"
        )


@dataclass(frozen=True, slots=True)
class Fits:
    """`curve` is what the simulation steps by, through `steps`, those under load too; `line` the
    straight one of production's gate."""

    steps: tuple[Step, ...]
    curve: Fit
    line: Fit
    first_tokens: Fit


def fit_all(
    steps: Sequence[Step], busy: Sequence[BusyTime], first_tokens: Sequence[FirstToken]
) -> Fits:
    """Raises UserError. What steps take under load joins what they take in waves, less the prompts
    that came in that time."""
    if not any(step.sequences == 1 for step in steps):
        raise UserError(
            f"{TOO_LITTLE} No step of one sequence: first tokens have nothing to be compared with."
        )
    first = fit_first_tokens(first_tokens, fit_curve(steps))
    steps = [*steps, *(step for time in busy if (step := without_prompts(time, first)) is not None)]
    curve = fit_curve(steps)
    line = fit_line(steps, curve)
    if not line["base_ms"]:
        raise UserError(f"{TOO_LITTLE} Steps seem to cost nothing but their sequences.")
    return Fits(tuple(steps), curve, line, fit_first_tokens(first_tokens, curve))


def without_prompts(busy: BusyTime, first: Fit) -> Step | None:
    """The step of that time less its prompts' tokens; None where they seem to have taken it all."""
    prompts_ms = (
        first["per_prompt_token_ms"] * busy.prompt_tokens
        + first["per_prompt_mpair_ms"] * busy.prompt_pairs / 1e6
    )
    step_ms = (busy.took_ms - prompts_ms) / busy.steps
    if step_ms <= 0:
        return None
    return Step(busy.sequences, busy.context_tokens, step_ms, busy.prompts / busy.steps)


def fit_curve(steps: Sequence[Step]) -> Fit:
    """What a step takes by its sequences: the first of the sizes that were measured, and what each
    further one adds to the one before; `per_context_ktoken_ms`; and `per_prompt_ms`, by which
    steps under load are longer than those of a wave."""
    sizes = sorted({step.sequences for step in steps if step.sequences == int(step.sequences)})
    if len(sizes) < 2:
        raise UserError(
            f"{TOO_LITTLE} Steps of one batch size only: they tell no cost of a sequence."
        )
    columns = {str(int(sizes[0])): [1.0 for _ in steps]}
    for low, high in pairwise(sizes):
        columns[str(int(high))] = [
            min(max((step.sequences - low) / (high - low), 0.0), 1.0) for step in steps
        ]
    columns[CONTEXT] = [step.context_tokens / 1e3 for step in steps]
    columns[PROMPT] = [step.prompts for step in steps]
    return _fit(columns, [step.step_ms for step in steps])


def curve_ms(curve: Fit) -> Mapping[int, float]:
    """The step without contexts, by its sequences."""
    sizes = [name for name in curve.names if name not in (CONTEXT, PROMPT)]
    return dict(zip(map(int, sizes), accumulate(curve[name] for name in sizes), strict=True))


def fit_line(steps: Sequence[Step], curve: Fit) -> Fit:
    """`base_ms` and `per_sequence_ms`: the straight line by which production's gate goes, with
    contexts and prompts at what the curve says."""
    columns = {
        "base_ms": [1.0 for _ in steps],
        "per_sequence_ms": [float(step.sequences) for step in steps],
    }
    known_ms = [
        curve[CONTEXT] * step.context_tokens / 1e3 + curve[PROMPT] * step.prompts for step in steps
    ]
    return _fit(columns, [step.step_ms for step in steps], known_ms=known_ms)


def fit_first_tokens(first_tokens: Sequence[FirstToken], curve: Fit) -> Fit:
    """`overhead_ms`, `per_prompt_token_ms` and `per_prompt_mpair_ms`, of prompts that were alone.

    What a first token takes beyond a step of one sequence and `per_prompt_ms` is the way of the
    request and its prompt's tokens.
    """
    if len({first.prompt_tokens for first in first_tokens}) < 2:
        raise UserError(
            f"{TOO_LITTLE} Prompts of one length only: they tell no cost of a prompt token."
        )
    columns = {
        "overhead_ms": [1.0 for _ in first_tokens],
        "per_prompt_token_ms": [float(first.prompt_tokens) for first in first_tokens],
        "per_prompt_mpair_ms": [pairs(0, first.prompt_tokens) / 1e6 for first in first_tokens],
    }
    ttft_ms = [first.ttft_ms for first in first_tokens]
    alone_ms = next(iter(curve_ms(curve).values())) + curve[PROMPT]
    return _fit(columns, ttft_ms, known_ms=[alone_ms for _ in ttft_ms])


def _fit(
    columns: Mapping[str, Sequence[float]],
    measured_ms: Sequence[float],
    known_ms: Sequence[float] | None = None,
) -> Fit:
    """Errors are relative to what the fit says: a step of 5 ms counts as much as one of 100 ms, and
    one that a slow moment of the machine made longer as much as one that was as much too short.
    (Relative to what was measured, the slow ones would count less, and every figure be too small.)

    Huber's loss, by least squares with new weights until they stay: an error counts by its square
    up to `USUAL_OFF`, and beyond it by its size, so that a wave that something else disturbed does
    not pull the others with it.
    """
    table = np.array(list(columns.values())).T
    measured = np.array(measured_ms)
    known = np.zeros(len(measured)) if known_ms is None else np.array(known_ms)
    says, trust = measured, np.ones(len(measured))
    values = np.zeros(table.shape[1])
    for _ in range(ITERATIONS):
        weight = np.sqrt(trust) / says
        before = values
        values = least_squares_from_0(table * weight[:, None], (measured - known) * weight)
        if np.allclose(values, before, rtol=1e-9, atol=0.0):
            break
        # A fit of nothing at all would weigh without end.
        says = np.maximum(table @ values + known, LEAST_SHARE * measured)
        off = np.maximum(np.abs(measured - table @ values - known) / says, 1e-12)
        trust = np.minimum(1.0, USUAL_OFF / off)
    fitted = table @ values + known
    weight = np.sqrt(trust) / says
    residuals = (measured - fitted) * weight
    return Fit(
        tuple(columns),
        tuple(map(float, values)),
        tuple(map(float, _standard_errors(table * weight[:, None], residuals, values > 0))),
        tuple(map(float, measured)),
        tuple(map(float, fitted)),
    )


def _standard_errors(table: Numbers, residuals: Numbers, free: Bools) -> Numbers:
    """Of the least squares' values that are free, by the spread of the residuals; 0 of those that
    are bound to 0. No more samples than values tell nothing of it: then it is infinite."""
    errors = np.zeros(table.shape[1])
    spare = len(residuals) - int(free.sum())
    if spare <= 0:
        errors[free] = np.inf
        return errors
    variance = float((residuals**2).sum()) / spare
    covariance = variance * np.linalg.pinv(table[:, free].T @ table[:, free])
    errors[free] = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return errors


def least_squares_from_0(table: Numbers, aims: Numbers) -> Numbers:
    """The x >= 0 that brings `table @ x` closest to `aims` (Lawson and Hanson).

    Columns become free one by one, the one along which the distance falls most first. Where the
    best of the free ones would be below 0, x goes as far towards it as it may, and what has come to
    0 is bound again.
    """
    count = table.shape[1]
    sizes = np.linalg.norm(table, axis=0)
    scale = np.where(sizes > 0, sizes, 1.0)
    scaled = table / scale
    values, free = np.zeros(count), np.zeros(count, bool)
    least_gain = 1e-12 * len(aims) * max(1.0, float(np.abs(aims).max()))
    for _ in range(10 * count):
        gain = scaled.T @ (aims - scaled @ values)
        gain[free] = -np.inf
        best = int(gain.argmax())
        if gain[best] <= least_gain:
            break
        free[best] = True
        values = _best_of_free(scaled, aims, values, free)
    return values / scale


def _best_of_free(scaled: Numbers, aims: Numbers, values: Numbers, free: Bools) -> Numbers:
    """Binds those of `free` that come to 0 on the way."""
    while True:
        aim = np.zeros(len(values))
        aim[free], *_ = np.linalg.lstsq(scaled[:, free], aims, rcond=None)
        below = free & (aim <= 0)
        if not below.any():
            return aim
        reach = values[below] / np.maximum(values[below] - aim[below], 1e-300)
        values = values + reach.min() * (aim - values)
        free &= values > 1e-15
        values[~free] = 0.0
