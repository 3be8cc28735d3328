"""How the answers' figures are written on a terminal."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from loadtest.report.formatting import seconds
from loadtest.scenario import Slo, slo_words
from loadtest.simulation.outcome import Percentiles


def plain_table(title: str) -> Table:
    """Narrow enough for 80 columns."""
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )


def gpus(counts: Mapping[str, int], between: str = ", ") -> str:
    """`2 T4, 1 RTX4090`."""
    return between.join(f"{count} {name}" for name, count in counts.items() if count)


def rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def repetitions(count: int) -> str:
    return "1 repetition" if count == 1 else f"{count} repetitions"


def slo(limits: Mapping[str, float]) -> str:
    return slo_words(Slo.model_validate(limits))


def times(of: Percentiles) -> str:
    """p50 and p95: `170 / 566 ms`."""
    p50, unit, p95 = *seconds(of.p50).partition(" ms")[:2], seconds(of.p95)
    return f"{p50} / {p95}" if unit and p95.endswith(unit) else f"{p50}{unit} / {p95}"


def print_profiles(profiles: Mapping[str, str], console: Console) -> None:
    """What of the GPUs was measured: nothing may look measured that is not."""
    for status in sorted(set(profiles.values())):
        names = ", ".join(name for name, own in profiles.items() if own == status)
        if status == "measured":
            text, style = f"{names}: the profile's figures were measured.", "dim"
        else:
            not_measured = ", not measured" if status == "derived" else ""
            text = (
                f"{names}: the profile's figures are {status}{not_measured}; "
                "`python -m loadtest calibrate` measures a GPU."
            )
            style = "yellow"
        console.print(text, style=style, soft_wrap=True, highlight=False)
