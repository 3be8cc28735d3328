"""Numbers as text, the same on every page: what was not reported is never written as 0."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOT_REPORTED = "not reported"


def percent(fraction: float | None) -> str:
    return NOT_REPORTED if fraction is None else f"{fraction:.1%}"


def seconds(value_s: float | None) -> str:
    if value_s is None:
        return NOT_REPORTED
    return f"{value_s * 1e3:.0f} ms" if value_s < 1 else f"{value_s:.1f} s"


def short_time(value_s: float | None) -> str:
    """Three digits, and the unit that people would use."""
    if value_s is None:
        return "--"
    if value_s < 1:
        value_ms = value_s * 1e3
        return f"{value_ms:.0f} ms" if value_ms >= 100 else f"{value_ms:.3g} ms"
    return f"{value_s:.0f} s" if value_s >= 100 else f"{value_s:.3g} s"


def number(value: float | None, digits: int = 0) -> str:
    return NOT_REPORTED if value is None else f"{value:,.{digits}f}"


def mib(value_bytes: float | None) -> str:
    return NOT_REPORTED if value_bytes is None else f"{value_bytes / 2**20:,.0f} MiB"


def interval(figure: Mapping[str, float] | None) -> str:
    """Of a fraction."""
    return "--" if figure is None else f"{figure['low']:.1%} to {figure['high']:.1%}"


def points(figure: Mapping[str, float]) -> str:
    """A difference of fractions, in percentage points."""
    value, low, high = (f"{figure[key] * 100:+.1f}" for key in ("value", "low", "high"))
    return f"{value} points ({low} to {high})"


def runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def counts(of: Mapping[str, int]) -> str:
    """Each by its name; `0` where nothing was counted, as a number beside it would say."""
    return ", ".join(f"{name}: {count}" for name, count in of.items()) or "0"


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, text_columns: int = 1
) -> str:
    """The first columns are text, the others are numbers."""
    marks = [*["---"] * text_columns, *["---:"] * (len(header) - text_columns)]
    lines = [header, marks, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
