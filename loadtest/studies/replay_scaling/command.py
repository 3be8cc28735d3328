"""`python -m loadtest replay-scaling`: does real Ray scale as the simulation says it would?"""

import argparse
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.errors import MeasurementError
from loadtest.report.pages import write_section
from loadtest.report.results_file import META, REPOSITORY, RESULTS, commit, provenance, read, write
from loadtest.scenario import Slo
from loadtest.simulation.option_types import DEFAULT_SLO, positive, slo
from loadtest.simulation.profile import GpuProfile, known_profiles
from loadtest.studies.replay_scaling.cells import CELLS, ReplayCell, slowed
from loadtest.studies.replay_scaling.replay import replay
from loadtest.studies.replay_scaling.results import differences, simulated, table
from serve_app.local.cluster import ClusterError

OUT = RESULTS / "replay_scaling.json"
PAGE = REPOSITORY / "docs" / "replay.md"
MARKERS = "replay-scaling"
DESCRIPTION = (
    "Plays cuts of traces in real time against the application on a local Ray "
    "cluster whose GPUs only Ray believes in, with the fake engine at the step times of the "
    "GPUs' profiles; then simulates the same requests, and writes both with their "
    "differences into the results file and the table of docs/replay.md. A cell takes a minute "
    "more than its --minutes. Cells: "
    + "; ".join(f"{cell.name}: {cell.words}" for cell in CELLS.values())
    + "."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cells", nargs="+", choices=tuple(CELLS), default=tuple(CELLS), help="which are played"
    )
    parser.add_argument("--minutes", type=positive, default=10.0, help="of each cell")
    parser.add_argument(
        "--load", type=positive, default=1.0, help="so many times the load of each cell"
    )
    parser.add_argument(
        "--slow",
        type=positive,
        default=1.0,
        help="GPUs that take so many times as long, and the load divided by it, on both sides: "
        "for a machine that does not keep up",
    )
    parser.add_argument(
        "--stream-interval",
        type=int,
        default=16,
        help="tokens in an event of a stream after the first: more cost the machine less",
    )
    parser.add_argument("--slo", type=slo, default=DEFAULT_SLO)
    parser.add_argument("--simulate-only", action="store_true", help="write nothing, start nothing")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--page", type=Path, default=PAGE, help=f"with markers `{MARKERS}`, where the table goes"
    )


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Each cell on its own; what is in the results file of other cells stays."""
    profiles = {name: slowed(gpu, options.slow) for name, gpu in known_profiles().items()}
    for name in options.cells:
        try:
            found = _play(CELLS[name], options, profiles, console)
        except (ClusterError, MeasurementError) as error:
            raise MeasurementError(f"{name}: {error}") from None
        if not options.simulate_only:
            _write(name, found, options, argv, console)
    return 0


def _play(
    cell: ReplayCell,
    options: argparse.Namespace,
    profiles: Mapping[str, GpuProfile],
    console: Console,
) -> dict[str, Any]:
    from loadtest.studies.replay_scaling.simulated import simulate_replay

    limits: Slo = options.slo
    trace = cell.trace(options.minutes * 60, options.load / options.slow)
    console.print(f"{cell.name}: {len(trace.requests)} requests in {trace.duration_s:.0f} s")
    outcome = simulate_replay(cell, trace, profiles, limits)
    expected = simulated(outcome)
    console.print(f"  simulated: {_short(expected.as_dict())}")
    found: dict[str, Any] = {
        "law": cell.policy,
        "words": cell.words,
        "gpus": dict(cell.gpus),
        "minutes": options.minutes,
        "load": options.load,
        "slow": options.slow,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "simulated": {
            **expected.as_dict(),
            "changes": [
                {"at_s": change.at_s, "tier": change.tier.value, "replicas": change.replicas}
                for change in outcome.changes
            ],
        },
    }
    if options.simulate_only:
        return found
    real = replay(cell, trace, profiles, limits, stream_interval=options.stream_interval)
    found["replayed"] = real.as_dict()
    found["difference"] = differences(real.figures, expected)
    console.print(f"  replayed:  {_short(real.as_dict())}")
    console.print(f"  {found['difference']}, {real.machine}, client {real.client['why_not']}")
    return found


def _short(figures: Mapping[str, Any]) -> str:
    names = ("goodput", "gpu_hours", "refused", "scale_actions")
    return ", ".join(f"{name} {figures[name]:g}" for name in names)


def _write(
    name: str,
    found: Mapping[str, Any],
    options: argparse.Namespace,
    argv: list[str],
    console: Console,
) -> None:
    before = read(options.out) if options.out.exists() else {}
    cells = {**before, name: found}
    results = {cell: cells[cell] for cell in CELLS if cell in cells}
    results[META] = provenance(argv) | {"stream_interval": options.stream_interval}
    write(options.out, results)
    console.print(f"  wrote {options.out}")
    if options.page.exists():
        write_section(MARKERS, table(results), options.page)
