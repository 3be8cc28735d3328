"""What commands write into the README: text between two markers, from a results file."""

from collections.abc import Mapping
from typing import Any

from loadtest.results_file import META

LABELS = {"bare": "bare vLLM server", "ours": "tierserve"}
HEADER = (
    "| streams | server | tokens/s | TTFT p50 | TTFT p95 | ITL p50 | CPU s per 1,000 tokens |",
    "|---:|---|---:|---:|---:|---:|---:|",
)


class MarkersMissing(Exception):
    """The text has no place for what is written."""


def table(results: Mapping[str, Any]) -> str:
    systems = [name for name in results if name != META]
    concurrencies = sorted({int(c) for name in systems for c in results[name]})
    lines = [
        _row(c, name, results[name][str(c)])
        for c in concurrencies
        for name in systems
        if str(c) in results[name]
    ]
    return "\n".join([*HEADER, *lines, "", _caption(results[META])])


def between_markers(text: str, name: str, body: str) -> str:
    """The text with `body` between the markers `<!-- name:begin -->` and `<!-- name:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begins, rest = text.partition(begin)
    _, ends, after = rest.partition(end)
    if not (begins and ends):
        raise MarkersMissing(f"put {begin} and {end} where it belongs")
    return f"{before}{begin}\n{body}\n{end}{after}"


def _row(concurrency: int, system: str, figures: Mapping[str, float]) -> str:
    cells = (
        str(concurrency),
        LABELS.get(system, system),
        f"{figures['tokens_per_s']:,.0f}",
        f"{figures['ttft_p50_ms']:.1f} ms",
        f"{figures['ttft_p95_ms']:.1f} ms",
        f"{figures['itl_p50_ms']:.1f} ms",
        f"{figures['cpu_s_per_ktoken']:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _caption(meta: Mapping[str, Any]) -> str:
    ratios = "; ".join(
        f"{c}: {_interval(figures['tokens_per_s_ratio'], 2)}, "
        f"{_interval(figures['ttft_p50_added_ms'], 1)} ms"
        for c, figures in meta["over_bare"]["ours"].items()
    )
    machine = meta["machine"]
    return (
        "Tokens a second as a share of bare, and TTFT p50 over bare, by streams (95 % interval): "
        f"{ratios}. Small random Qwen2, {meta['output_tokens']} tokens a stream, "
        f"{machine['cores']} cores of {machine['cpu']}, {meta['date'][:10]}, "
        f"commit {meta['commit']}; `make bench-overhead` measures it again."
    )


def _interval(figure: Mapping[str, float], digits: int) -> str:
    value, low, high = (f"{figure[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
