"""What every picture has in common: its colours, its panels' look, and how it is saved."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distinct to those who cannot tell red from green, and in grey.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FIRST, SECOND = COLORS[:2]
INK, GRID = "#333333", "#DDDDDD"
DPI = 150
SMALL: dict[str, Any] = {"fontsize": 9.5, "color": INK, "loc": "left"}
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}


def make_figure(width_in: float, height_in: float) -> "Figure":
    # A figure of its own, with the backend of its file type: nothing global, no window.
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def save(figure: "Figure", path: Path, *, grid: Any = "y") -> None:
    for axis in figure.axes:
        axis.grid(axis=grid, color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8.5, colors=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    # No metadata, so that the same figures make the same file.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
