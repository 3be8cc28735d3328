"""Figures as text, the same on every page: what was not told is never written as 0."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOT_TOLD = "not told"


def percent(share: float | None) -> str:
    return NOT_TOLD if share is None else f"{share:.1%}"


def seconds(value_s: float | None) -> str:
    if value_s is None:
        return NOT_TOLD
    return f"{value_s * 1e3:.0f} ms" if value_s < 1 else f"{value_s:.1f} s"


def number(value: float | None, digits: int = 0) -> str:
    return NOT_TOLD if value is None else f"{value:,.{digits}f}"


def mib(value_bytes: float | None) -> str:
    return NOT_TOLD if value_bytes is None else f"{value_bytes / 2**20:,.0f} MiB"


def interval(figure: Mapping[str, float] | None) -> str:
    """Of a share."""
    return "--" if figure is None else f"{figure['low']:.1%} to {figure['high']:.1%}"


def points(figure: Mapping[str, float]) -> str:
    """A difference of shares, in percentage points."""
    value, low, high = (f"{figure[key] * 100:+.1f}" for key in ("value", "low", "high"))
    return f"{value} points ({low} to {high})"


def runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def counts(of: Mapping[str, int]) -> str:
    """Each by its name; `0` where nothing was counted, as a number beside it would say."""
    return ", ".join(f"{name}: {count}" for name, count in of.items()) or "0"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The first column is text, the others are figures."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    lines = [header, marks, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
