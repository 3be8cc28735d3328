"""`python -m loadtest scaling-table`: all policies on the recorded traces, for docs/scaling.md."""

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.readme_table import between_markers
from loadtest.results_file import META, REPOSITORY, commit, machine, write
from loadtest.simulation import options as common
from loadtest.simulation.inputs import scaled_setup
from loadtest.simulation.names import POLICIES
from loadtest.simulation.option_types import gpu_counts
from loadtest.simulation.trace import Trace, merged, read_trace
from serve_app.core.tiers import Tier

TRACES = REPOSITORY / "loadtest" / "traces"
AZURE, SERVEGEN = "azure2023_conv_1h.csv.gz", "servegen_r1_peak_hour_2rps.csv.gz"
# Each case: its parts, as (file, tier, rate).
CASES: Mapping[str, tuple[tuple[str, Tier, float], ...]] = {
    "azure2023_conv_1h": ((AZURE, Tier.CHAT, 1.0),),
    "servegen_r1_peak_hour_2rps": ((SERVEGEN, Tier.REASONING, 1.0),),
    "servegen_r1, 4 times as fast": ((SERVEGEN, Tier.REASONING, 4.0),),
    "azure as chat + servegen_r1 as reasoning": (
        (AZURE, Tier.CHAT, 1.0),
        (SERVEGEN, Tier.REASONING, 1.0),
    ),
}
NO_LENDING = "ours, nothing lent"
HEADER = (
    "| trace | policy | begun in time | GPU-hours | against ours | scale actions | setting |",
    "|---|---|---:|---:|---:|---:|---|",
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "scaling-table",
        help="all policies on the recorded traces; writes docs/scaling.md's table",
        description="Simulates every policy on the traces of loadtest/traces, each policy but ours "
        "at its best setting for that trace, and writes loadtest/results/scaling.json and the "
        "table of docs/scaling.md. Takes some ten minutes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--gpus", type=gpu_counts, default=common.DEFAULT_GPUS)
    parser.add_argument(
        "--out", type=Path, default=REPOSITORY / "loadtest" / "results" / "scaling.json"
    )
    parser.add_argument("--page", type=Path, default=REPOSITORY / "docs" / "scaling.md")
    common.add_cluster(parser)
    common.add_scaling(parser, cold_start_s=45.0)


def run(options: argparse.Namespace, console: Console) -> int:
    results: dict[str, Any] = {}
    with ProcessPoolExecutor() as pool:
        for case, parts in CASES.items():
            trace = merged([read_trace(TRACES / file, tier=t, rate=r) for file, t, r in parts])
            names = [*POLICIES[:1], *([NO_LENDING] if len(trace.tiers) > 1 else []), *POLICIES[1:]]
            console.print(f"{case}: {', '.join(names)}")
            rows = pool.map(_row, *zip(*((name, trace, options) for name in names), strict=True))
            results[case] = dict(zip(names, rows, strict=True))
    results[META] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "command": shlex.join(["python", "-m", "loadtest", *sys.argv[1:]]),
        "gpus": options.gpus,
        "cold_start_s": options.cold_start_s,
        "max_wait_s": options.max_wait_s,
    }
    write(options.out, results)
    page = options.page.read_text(encoding="utf-8")
    options.page.write_text(between_markers(page, "scaling", table(results)), encoding="utf-8")
    console.print(f"wrote {options.out} and {options.page}")
    return 0


def table(results: Mapping[str, Any]) -> str:
    """The rows of the results file, and a caption with what they were taken with."""
    lines = []
    for case, rows in results.items():
        if case == META:
            continue
        ours = rows["ours"]["gpu_hours"]
        for name, row in rows.items():
            setting = ", ".join(f"{key} {value}" for key, value in row["setting"].items())
            against = "" if name == "ours" else f"{row['gpu_hours'] / ours - 1:+.0%}"
            lines.append(
                f"| {case} | {name} | {row['attainment']:.2%} | {row['gpu_hours']:.3f} | {against} "
                f"| {row['scale_actions']} | {setting} |"
            )
    meta = results[META]
    cards = ", ".join(f"{count} {card}" for card, count in meta["gpus"].items())
    caption = (
        f"Simulated on derived step times: {cards}; a cold start of {meta['cold_start_s']:g} s; "
        f"a longest wait of {meta['max_wait_s']:g} s in both tiers. "
        f"`{meta['command']}`, {meta['date']}, commit {meta['commit']}."
    )
    return "\n".join([*HEADER, *lines, "", caption])


def _row(name: str, trace: Trace, options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    from loadtest.simulation.contest import run_policy

    setup = scaled_setup(options)
    policy = name
    if name == NO_LENDING:
        policy, setup = "ours", replace(setup, lend_share=0.0)
    result = run_policy(policy, trace, setup, attainment=options.attainment)
    outcome = result.outcome
    return {
        "attainment": outcome.attainment,
        "gpu_hours": outcome.gpu_hours,
        "scale_actions": outcome.scale_actions,
        "refused": outcome.refused,
        "lent": outcome.lent,
        "setting": json.loads(json.dumps(result.setting)),
        "settings_tried": result.tried,
    }
