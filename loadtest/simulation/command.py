"""`python -m loadtest simulate`: one policy on one trace, as a sentence and as JSON."""

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.simulation.names import POLICIES
from loadtest.simulation.trace import Trace, TraceError, read_trace, tier_of_file
from serve_app.core.hardware import RTX_4090, T4
from serve_app.core.tiers import Tier
from serve_app.load_config import AdmissionConfig

KNOWN_CARDS = ("T4", "RTX4090")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "simulate",
        help="a scaling policy on recorded traffic: requests begun in time, and GPU-hours",
        description="Replays a trace against simulated replicas on simulated cards (continuous "
        "batching with the step times that serve_app/core/hardware.py derives for each card; "
        "nothing here was measured on a card) and lets a policy scale them. `ours` is the law that "
        "the server runs. `ray-default` and `waiting-threshold` are given hindsight: the cheapest "
        "of their settings that begins as many requests in time as ours does. `clairvoyant` is the "
        "cheapest plan found by a search that knows the trace.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--trace",
        type=Path,
        required=True,
        help="CSV, or CSV.gz, with arrival_s, input_tokens, "
        "output_tokens, and tier where requests are of several tiers",
    )
    add("--gpus", type=gpu_counts, default="T4=2,RTX4090=1", help="cards of the cluster")
    add("--policy", choices=POLICIES, default="ours")
    add("--json", type=Path, metavar="OUT", help="write the result here")
    add(
        "--tier",
        type=Tier,
        choices=list(Tier),
        help="whose requests they are where the trace "
        "does not say; without it chat, or reasoning where it has a column reasoning_tokens",
    )
    add("--rate", type=positive, default=1.0, help="let them come so many times as fast")
    add_setup(parser)


def add_setup(parser: argparse.ArgumentParser) -> None:
    """The options that describe the cluster's habits."""
    add = parser.add_argument
    add(
        "--max-wait-s",
        type=positive,
        default=AdmissionConfig().max_wait_s,
        help="longest wait of a tier: who waits longer is refused, and counts as missed",
    )
    add(
        "--cold-start-s",
        type=positive,
        default=45.0,
        help="from ordering a replica to its first request",
    )
    add(
        "--downscale-delay-s",
        type=positive,
        default=60.0,
        help="how long ours must wish fewer before it gets fewer",
    )
    add(
        "--lend-share",
        type=share,
        default=AdmissionConfig().lend_share,
        help="part of its slots that a replica lends to the other tier; ours only",
    )
    add(
        "--attainment",
        type=share,
        help="what the other policies' settings must reach; what ours "
        "reaches on this trace, if not given",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    from loadtest.simulation.contest import run_policy

    try:
        trace = load_trace(options.trace, options.tier, options.rate, console)
    except (TraceError, OSError) as fault:
        console.print(str(fault), style="bold red", highlight=False, markup=False)
        return 2
    setup = make_setup(options, trace)
    if setup is None:
        console.print("Each tier of the trace needs a GPU of its own at least.", style="bold red")
        return 2
    with console.status(f"{options.policy} on {options.trace.name}"):
        result = run_policy(options.policy, trace, setup, attainment=options.attainment)
    outcome = result.outcome
    document = {
        "policy": options.policy,
        "attainment": outcome.attainment,
        "gpu_hours": outcome.gpu_hours,
        "scale_actions": outcome.scale_actions,
        "attainment_by_tier": {tier.value: part for tier, part in outcome.by_tier.items()},
        "requests": outcome.requests,
        "refused": outcome.refused,
        "lent": outcome.lent,
        "setting": result.setting,
        "settings_tried": result.tried,
        "trace": options.trace.name,
        "rate": options.rate,
        "duration_s": trace.duration_s,
        "clipped": trace.clipped,
        "gpus": options.gpus,
        "max_wait_s": options.max_wait_s,
        "cold_start_s": options.cold_start_s,
        "hardware": {card.name: card.status for card in (T4, RTX_4090)},
        "date": datetime.now(UTC).date().isoformat(),
        "changes": [
            {"at_s": at_s, "tier": tier.value, "replicas": replicas}
            for at_s, tier, replicas in outcome.changes
        ],
    }
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    _tell(document, console)
    return 0


def load_trace(path: Path, tier: Tier | None, rate: float, console: Console) -> Trace:
    """The trace, with a word on what was assumed about it."""
    if tier is None:
        tier = tier_of_file(path)
        if tier is not None:
            console.print(f"{path.name} names no tiers: taken as {tier}'s (--tier)")
    return read_trace(path, tier=tier, rate=rate)


def make_setup(options: argparse.Namespace, trace: Trace) -> Any:
    """None if there are fewer cards than tiers."""
    from loadtest.simulation.run import Setup

    setup = Setup(
        gpus=options.gpus,
        max_wait_s=options.max_wait_s,
        cold_start_s=options.cold_start_s,
        min_drain_s=5.0,
        lend_share=options.lend_share,
        downscale_delay_s=options.downscale_delay_s,
    )
    return setup if setup.gpu_count >= len(trace.tiers) else None


def gpu_counts(text: str) -> dict[str, int]:
    """`T4=2,RTX4090=1` as counts by card."""
    counts: dict[str, int] = {}
    for part in text.split(","):
        name, equals, count = part.strip().partition("=")
        if name not in KNOWN_CARDS or not equals or not count.isdigit():
            raise argparse.ArgumentTypeError(
                f"{part!r} is no card with its count: T4=2,RTX4090=1 are the cards known here"
            )
        counts[name] = counts.get(name, 0) + int(count)
    return {name: count for name, count in counts.items() if count}


def positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _tell(document: Mapping[str, Any], console: Console) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("policy", document["policy"])
    table.add_row("begun in time", f"{document['attainment']:.2%} of {document['requests']}")
    table.add_row("GPU-hours", f"{document['gpu_hours']:.3f}")
    table.add_row("scale actions", str(document["scale_actions"]))
    table.add_row("refused, lent", f"{document['refused']}, {document['lent']}")
    chosen = ", ".join(f"{name} {value}" for name, value in document["setting"].items())
    table.add_row("setting", f"{chosen} (of {document['settings_tried']} tried)")
    console.print(table)
    console.print("Simulated; the cards' step times are derived, not measured.", style="dim")
