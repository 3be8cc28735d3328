"""`python -m loadtest`: what serving costs, what a first run takes, what a part's death does."""

import argparse
import json
import signal
import sys
from pathlib import Path

from rich.console import Console

from loadtest import cold_start, faults, first_run
from loadtest.calibration import command as calibrate_command
from loadtest.calibration import validate_command
from loadtest.evaluation import budget_curve
from loadtest.evaluation import command as eval_command
from loadtest.evaluation import compare as compare_command
from loadtest.load import command as load_command
from loadtest.load import limit as limit_command
from loadtest.micro_r1 import command as micro_r1_command
from loadtest.overhead import command as overhead_command
from loadtest.overhead import options as overhead_options
from loadtest.overhead.options import RANDOM
from loadtest.overhead.summary import SUMMARY, summary
from loadtest.overhead.table import table
from loadtest.readme_table import between_markers
from loadtest.replay_scaling import command as replay_command
from loadtest.results_file import REPOSITORY, RESULTS
from loadtest.simulation import bench_scaling, capacity, plan
from loadtest.simulation import command as simulate_command
from loadtest.soak import command as soak_command
from loadtest.traces import fetch


def main(argv: list[str]) -> int:
    options = make_parser().parse_args(argv)
    if options.command == "overhead":
        return overhead_command.run(options, argv, Console())
    if options.command == "first-run":
        return first_run.run(options.port, with_tests=not options.no_tests, console=Console())
    if options.command == "simulate":
        return simulate_command.run(options, argv, Console())
    if options.command == "capacity":
        return capacity.run(options, argv, Console())
    if options.command == "plan":
        return plan.run(options, argv, Console())
    if options.command == "bench-scaling":
        return bench_scaling.run(options, argv, Console())
    if options.command == "cold-start":
        return cold_start.run(options.rounds, Console())
    if options.command == "eval":
        return eval_command.run(options, Console())
    if options.command == "compare":
        return compare_command.run(options, Console())
    if options.command == "budget-curve":
        return budget_curve.run(options, Console())
    if options.command == "run":
        return load_command.run(options, argv, Console())
    if options.command == "generator-limit":
        return limit_command.run(options, argv, Console())
    if options.command == "calibrate":
        return calibrate_command.run(options, argv, Console())
    if options.command == "validate":
        return validate_command.run(options, argv, Console())
    if options.command == "soak":
        return soak_command.run(options, argv, Console())
    if options.command == "train-micro-r1":
        return micro_r1_command.run(options, Console())
    if options.command == "replay-scaling":
        return replay_command.run(options, Console())
    if options.command == "fetch-traces":
        return fetch.run(options, Console())
    if options.command == "faults":
        return faults.run(Console())
    for results in options.results:
        write_table(results, options.page)
    write_summary(RESULTS, options.readme)
    return 0


def write_table(results: Path, page: Path) -> None:
    """Put the table of a results file between the page's markers of the same name."""
    text = page.read_text(encoding="utf-8")
    body = table(json.loads(results.read_text(encoding="utf-8")))
    page.write_text(between_markers(text, results.stem, body), encoding="utf-8")


def write_summary(results: Path, readme: Path) -> None:
    """Put the three rows of a results file between the README's markers."""
    text = readme.read_text(encoding="utf-8")
    body = summary(json.loads(results.read_text(encoding="utf-8")))
    readme.write_text(between_markers(text, SUMMARY, body), encoding="utf-8")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    overhead_options.add_parser(commands)
    first = commands.add_parser(
        "first-run",
        help="a clean clone, `make serve` twice, the README's curl commands, `make test`",
        description="Does what a newcomer does with the last commit, measures how long it takes, "
        "and writes loadtest/results/first_run.json and the README's sentence about it.",
    )
    first.add_argument("--port", type=int, default=8000)
    first.add_argument("--no-tests", action="store_true", help="leave `make test` out")
    commands.add_parser(
        "faults",
        help="kill parts under load and count what it costs",
        description="Runs the tests that kill a replica, an engine, HAProxy and the controller "
        "under load, and writes loadtest/results/faults.json and the table in docs/operations.md.",
    )
    cold = commands.add_parser(
        "cold-start",
        help="start a replica with and without compilation, with an empty and a kept cache",
        description="Starts the chat tier with a small random model, eager and compiled, with "
        "an empty and with a kept cache in turn, and writes loadtest/results/cold_start.json and "
        "the table in docs/operations.md.",
    )
    cold.add_argument("--rounds", type=int, default=2, help="starts of each kind; 4 minutes each")
    simulate_command.add_parser(commands)
    capacity.add_parser(commands)
    plan.add_parser(commands)
    bench_scaling.add_parser(commands)
    fetch.add_parser(commands)
    calibrate_command.add_parser(commands)
    validate_command.add_parser(commands)
    micro_r1_command.add_parser(commands)
    load_command.add_parser(commands)
    limit_command.add_parser(commands)
    soak_command.add_parser(commands)
    eval_command.add_parser(commands)
    compare_command.add_parser(commands)
    budget_curve.add_parser(commands)
    replay_command.add_parser(commands)
    readme = commands.add_parser(
        "readme", help="write docs/overhead.md's tables and the README's from the results"
    )
    # What `make bench-overhead` writes.
    stems = ("overhead-promises", RESULTS.stem, f"overhead-{RANDOM}")
    results = tuple(RESULTS.with_stem(stem) for stem in stems)
    readme.add_argument("--results", type=Path, nargs="+", default=results)
    readme.add_argument("--page", type=Path, default=REPOSITORY / "docs" / "overhead.md")
    readme.add_argument("--readme", type=Path, default=REPOSITORY / "README.md")
    return parser


if __name__ == "__main__":
    # As Ctrl-C: what a command has frozen goes on, and what it has started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
