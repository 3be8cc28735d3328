"""`python -m loadtest run`: load on an OpenAI server, and what it did with it."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.errors import INTERRUPTED, UserError
from loadtest.load import scenario_file
from loadtest.options import add_api_key, api_key_of, base_url, natural, positive
from loadtest.report.formatting import counts, number, percent, short_time
from loadtest.report.run_folder import default_folder
from loadtest.scenario import Scenario

ON_INTERRUPT = "Stopped at once: requests.jsonl has what had ended; there is no summary."
DESCRIPTION = """\
Sends streamed chat completions when they are due, whether or not earlier ones have ended, or
in closed loops. Writes requests.jsonl as they end, and summary.json, report.html and its
pictures at the end. It says how late it was itself."""
EPILOG = """examples:
  two tiers, arrivals as they come:
    python -m loadtest run --tier chat=3/s --tier reasoning=0.5/s --duration 60s --slo ttft=2s
  a ramp; bursts of five times the rate:
    python -m loadtest run --tier chat=1/s..10/s --duration 5m
    python -m loadtest run --tier chat=2/s --arrivals burst --duration 5m
  32 clients that ask again and again, of any OpenAI server:
    python -m loadtest run --base-url http://127.0.0.1:8000/v1 --concurrency 32 --duration 60s
  recorded arrivals and lengths, ten times as fast:
    python -m loadtest run --trace loadtest/traces/azure2023_conv_1h.csv.gz --speed 10
  a file that says it all; two runs side by side:
    python -m loadtest run --scenario evening.yaml
    python -m loadtest run --compare DIR_A DIR_B

docs/load-testing.md says what each number means."""
HELP_FORMAT = argparse.RawDescriptionHelpFormatter


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--scenario", type=Path, metavar="FILE", help="YAML; flags below but these four are for "
        "runs without one: --base-url, --out, --retry, --seed")  # fmt: skip
    add("--base-url", type=base_url, help="with /v1 at its end any OpenAI server; without, "
        "a server with tiers (http://127.0.0.1:8000)")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="loadtest/results/load/NAME-TIME if not given")
    add("--retry", type=natural, metavar="N", help="refused requests are sent again at "
        "their Retry-After, up to N times; never if not given")  # fmt: skip
    add("--seed", type=int, help="same seed, same arrivals and lengths (0)")
    add_api_key(parser)
    add("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two finished runs side by side")
    _add_quick(parser)


def _add_quick(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("without a scenario").add_argument
    add("--tier", action="append", metavar="NAME=RATE", help="3/s, 90/m; from 1/s to 10/s: "
        "1/s..10/s. Once for each tier; only its name with --concurrency or --trace")  # fmt: skip
    add("--arrivals", choices=("poisson", "constant", "burst"), default="poisson",
        help="how they come (poisson)")  # fmt: skip
    add("--burst-factor", type=float, default=5.0, help="how many times the rate (5)")
    add("--burst-every", default="60s", help="from burst to burst (60s)")
    add("--burst-length", default="10s", help="how long a burst is (10s)")
    add("--duration", help=f"how long requests come ({scenario_file.DEFAULT_DURATION})")
    add("--requests", type=positive, metavar="N", help="at most N of each tier")
    add("--concurrency", type=positive, metavar="N", help="clients of each tier that ask "
        "again when their answer has ended, in place of arrivals")  # fmt: skip
    add("--trace", type=Path, metavar="FILE", help="CSV or CSV.gz: arrival_s, input_tokens, "
        "output_tokens, and tier where there are several")  # fmt: skip
    add("--speed", type=float, default=1.0, help="how many times as fast as recorded (1)")
    add("--input-tokens", default="128", help="256, or 64-512 for all between (128)")
    add("--output-tokens", default="128", help="as above (128)")
    add("--slo", metavar="ttft=2s,tpot=100ms", help="of ttft, ttfo, tpot, e2e: for goodput")
    add("--model", help="the first that the server lists if not given")
    add("--ignore-eos", action=argparse.BooleanOptionalAction, help="vLLM's field, which makes "
        "answers as long as asked; off for servers that do not know it")  # fmt: skip
    add("--name", default="run", help="in the report and the folder's name")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    if options.compare is not None:
        from loadtest.load import compare

        a, b = options.compare
        return compare.run(a, b, options.out, console)
    scenario = scenario_of(options)
    from loadtest.load.report import NAME
    from loadtest.load.run import execute

    folder = options.out or default_folder("load", scenario.name)
    api_key = api_key_of(options)
    document = execute(scenario, folder, console, argv=argv, api_key=api_key)
    show(document, console)
    console.print(f"wrote {folder / NAME}", soft_wrap=True, highlight=False)
    return INTERRUPTED if document["interrupted"] else 0


def scenario_of(options: argparse.Namespace) -> Scenario:
    """From the file or the flags, with what is given beside it."""
    if options.scenario is not None:
        if options.tier or options.trace or options.concurrency:
            raise UserError("--scenario says what comes: leave --tier, --trace, --concurrency out.")
        scenario = scenario_file.read(options.scenario)
    else:
        scenario = scenario_file.from_flags(options)
    given = {
        "base_url": options.base_url,
        "retries": options.retry,
        "seed": options.seed,
        "ignore_eos": options.ignore_eos,
    }
    return scenario.model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )


def show(document: Mapping[str, Any], console: Console) -> None:
    table = Table(title=document["scenario"]["name"], title_justify="left")
    table.add_column("")
    for name in document["tiers"]:
        table.add_column(name, justify="right")
    for title, cell in _rows():
        table.add_row(title, *(cell(tier) for tier in document["tiers"].values()))
    console.print(table)
    own = document["generator"]
    console.print(
        f"Generator: loop late by {short_time(own['loop_lag_s']['p99'])}, sent late by "
        f"{short_time(own['sent_late_s']['p99'])} (p99), {own['cpu_cores']:.2f} cores, "
        f"{own['chunks_per_s']:,.0f} chunks/s.",
        highlight=False,
        soft_wrap=True,
    )
    if not own["kept_up"]:
        console.print(
            f"It did not keep up: {own['why_not']}. The latencies include its own delay.",
            style="bold yellow",
            highlight=False,
            soft_wrap=True,
        )


def _rows() -> list[tuple[str, Any]]:
    def latency(key: str) -> Any:
        return lambda tier: " / ".join(short_time(tier[key][p]) for p in ("p50", "p95", "p99"))

    def good(tier: Mapping[str, Any]) -> str:
        found = tier["goodput"]
        return "no SLO" if found is None else f"{percent(found['share'])}, {found['per_s']:.2f}/s"

    def kept(tier: Mapping[str, Any]) -> str:
        found = tier["retry_after"]["kept_share"]
        return "not tested" if found is None else percent(found)

    return [
        ("requests", lambda tier: number(tier["requests"])),
        ("served", lambda tier: f"{number(tier['served'])} ({tier['served_per_s'] or 0:.2f}/s)"),
        ("refused", lambda tier: counts(tier["refused"])),
        ("errors", lambda tier: counts(tier["errors"])),
        ("TTFT p50 / p95 / p99", latency("ttft_s")),
        ("TTFO p50 / p95 / p99", latency("ttfo_s")),
        ("ITL p50 / p95 / p99", latency("itl_s")),
        ("TPOT p50 / p95 / p99", latency("tpot_s")),
        ("E2E p50 / p95 / p99", latency("e2e_s")),
        ("output tokens/s", lambda tier: number(tier["output_tokens_per_s"], 1)),
        ("goodput", good),
        ("Retry-After kept", kept),
    ]
