"""README's three rows: what tierserve and Ray Serve LLM add to vLLM's own server."""

from collections.abc import Mapping
from typing import Any

from loadtest.report.results_file import META
from loadtest.servers.systems import OURS
from loadtest.studies.overhead.ray_systems import RAY_SERVE_LLM

# The README's markers. The rows are of the run that has every system.
SUMMARY = "overhead-summary"
# Streams of a closed loop whose answers are of one length.
LEVELS = ("1", "8", "32")
HEADS = {
    OURS: ("tokens/s over baseline vLLM", "added TTFT p50", "added TTFT p95"),
    RAY_SERVE_LLM: ("Ray Serve LLM: tokens/s", "added TTFT p50", "added TTFT p95"),
}


def summary(results: Mapping[str, Any]) -> str:
    """The table of a results file with all systems, and one sentence on how it was measured."""
    over = results[META]["over_bare"]
    systems = [name for name in HEADS if name in over]
    heads = [head for name in systems for head in HEADS[name]]
    lines = [f"| streams | {' | '.join(heads)} |", f"|---:|{'---:|' * len(heads)}"]
    for level in LEVELS:
        if all(level in over[name] for name in systems):
            cells = [cell for name in systems for cell in _cells(over[name][level])]
            lines.append(f"| {level} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _caption(results[META])])


def _cells(over: Mapping[str, Any]) -> tuple[str, str, str]:
    ratio = over["tokens_per_s_ratio"]
    p50_ms, p95_ms = (over[f"ttft_{percentile}_added_ms"]["value"] for percentile in ("p50", "p95"))
    share = f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return share, f"{p50_ms:+.1f} ms", f"{p95_ms:+.1f} ms"


def _caption(meta: Mapping[str, Any]) -> str:
    rounds = {figures["rounds"] for over in meta["over_bare"].values() for figures in over.values()}
    return (
        "Against vLLM's own server in one alternating run, with a 95 % interval; engine, server "
        f"and client share {meta['machine']['cores']} cores of {meta['machine']['cpu']}. "
        f"Model `{meta.get('model', 'random')}`, {meta['output_tokens']} tokens an answer, "
        f"{max(rounds)} rounds, {meta['date'][:10]}, commit {meta['commit']}; "
        "`make bench-overhead` measures it again, [docs/overhead.md](docs/overhead.md) has the "
        "method and all tables."
    )
