"""The fit's picture: what was measured, and the lines that the profile says."""

from collections.abc import Sequence
from pathlib import Path

from loadtest.calibration.fit import Fits
from loadtest.calibration.samples import FirstToken
from loadtest.load.plots import COLORS, LEGEND, SMALL, make_figure, save


def draw(fits: Fits, first_tokens: Sequence[FirstToken], title: str, path: Path) -> None:
    """Two panels: a decode step by batch size, and the first token by length of the prompt."""
    figure = make_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=11)
    left.set_title("decode step, by sequences at once; measured and fitted", **SMALL)
    for number, (label, low, high) in enumerate(_CONTEXTS):
        own = [
            (step, fitted)
            for step, fitted in zip(fits.steps, fits.curve.fitted_ms, strict=True)
            if low <= step.context_tokens / step.sequences < high
        ]
        if not own:
            continue
        color = COLORS[number]
        batches = [step.sequences for step, _ in own]
        measured_ms = [step.step_ms for step, _ in own]
        left.plot(batches, measured_ms, "o", color=color, alpha=0.6, label=label)
        line = sorted((step.sequences, fitted) for step, fitted in own)
        left.plot(*zip(*line, strict=True), color=color, linewidth=1.2)
    left.set_xlabel("sequences")
    left.set_ylabel("ms a step")
    right.set_title("first token, by length of the prompt; alone", **SMALL)
    prompts = [first.prompt_tokens for first in first_tokens]
    right.plot(
        prompts,
        [first.ttft_ms for first in first_tokens],
        "o",
        color=COLORS[0],
        alpha=0.6,
        label="measured",
    )
    line = sorted(zip(prompts, fits.first_tokens.fitted_ms, strict=True))
    right.plot(*zip(*line, strict=True), color=COLORS[1], linewidth=1.2, label="fitted")
    right.set_xlabel("prompt tokens")
    right.set_ylabel("TTFT, ms")
    for axis in (left, right):
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.legend(loc="best", **LEGEND)
    save(figure, path, grid="both")


_CONTEXTS = (
    ("contexts below 256 tokens", 0, 256),
    ("256 to 800", 256, 800),
    ("800 and more", 800, float("inf")),
)
