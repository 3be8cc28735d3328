"""`python -m loadtest readme`: the overhead tables of the docs, from the results files; README's
three rows: what tierserve and Ray Serve LLM add to vLLM's own server; and a sentence on what `/v1`
adds to the tier's own route."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.report.pages import write_section
from loadtest.report.results_file import META, RESULTS, read
from loadtest.servers.systems import OURS, OURS_V1
from loadtest.studies.overhead.options import RANDOM
from loadtest.studies.overhead.ray_systems import RAY_SERVE_LLM
from loadtest.studies.overhead.results import table

# What `make bench-overhead` writes.
STEMS = ("overhead-promises", "overhead", f"overhead-{RANDOM}")
# The same, where it has been measured.
ROUTES = RESULTS / "overhead-routes.json"


# The README's markers. The rows are of the run that has every system.
SUMMARY = "overhead-summary"
# Streams of a closed loop whose answers are of one length.
LEVELS = ("1", "8", "32")
HEADS = {
    OURS: ("tokens/s over baseline vLLM", "added TTFT p50", "added TTFT p95"),
    RAY_SERVE_LLM: ("Ray Serve LLM: tokens/s", "added TTFT p50", "added TTFT p95"),
}
HELP_FORMAT = argparse.HelpFormatter
DESCRIPTION = (__doc__ or "").split(";")[0]


def add_options(parser: argparse.ArgumentParser) -> None:
    results = (
        *(RESULTS / f"{stem}.json" for stem in STEMS),
        *([ROUTES] if ROUTES.exists() else ()),
    )
    parser.add_argument("--results", type=Path, nargs="+", default=results)
    parser.add_argument("--readme", type=Path, help="else the page that has the table's markers")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    for results in options.results:
        write_section(results.stem, table(read(results)), options.readme)
    routes = read(ROUTES) if ROUTES.exists() else None
    write_section(SUMMARY, summary(read(RESULTS / "overhead.json"), routes))
    return 0


def summary(results: Mapping[str, Any], routes: Mapping[str, Any] | None = None) -> str:
    """The table of a results file with all systems, one sentence on how it was measured, and one on
    tierserve's two routes from the results file of these."""
    over = results[META]["over_bare"]
    systems = [name for name in HEADS if name in over]
    heads = [head for name in systems for head in HEADS[name]]
    lines = [f"| streams | {' | '.join(heads)} |", f"|---:|{'---:|' * len(heads)}"]
    for level in LEVELS:
        if all(level in over[name] for name in systems):
            cells = [cell for name in systems for cell in _cells(over[name][level])]
            lines.append(f"| {level} | {' | '.join(cells)} |")
    on_routes = [] if routes is None else [_routes(routes[META])]
    return "\n".join([*lines, "", " ".join([*on_routes, _caption(results[META])])])


def _routes(meta: Mapping[str, Any]) -> str:
    over = meta["over_ours"][OURS_V1]
    by_level = "; ".join(
        f"at {level} {over[level]['tokens_per_s_ratio']['value']:.2f} of the tokens and "
        f"{over[level]['ttft_p50_added_ms']['value']:+.1f} ms TTFT p50"
        for level in LEVELS
        if level in over
    )
    return (
        "This is what `/api/<tier>` and `/api/<tier>/v1` cost. Of `/api/<tier>/v1`, `/v1`, which "
        f"goes through the gateway, has, by streams: {by_level} (commit {meta['commit']})."
    )


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
