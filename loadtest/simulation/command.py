"""`python -m loadtest simulate`: one policy on one trace, as tables, a picture and JSON."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from loadtest.errors import UserError
from loadtest.report.formatting import counts, number, percent
from loadtest.simulation import formatting
from loadtest.simulation import option_types as types
from loadtest.simulation import options as common
from loadtest.simulation.options import POLICIES
from serve_app.core.placement.hardware import RTX_4090, T4

if TYPE_CHECKING:
    from loadtest.simulation.answers import GpuFigures, SimulateAnswer
    from loadtest.simulation.contest import Result
    from loadtest.simulation.profile import GpuProfile
    from loadtest.simulation.setup import Setup
    from loadtest.simulation.trace import Trace

ON_INTERRUPT = "Interrupted: a policy is judged by the whole trace."
DESCRIPTION = """\
Replays a trace against a simulated cluster and lets a policy scale it. The gate, relay, lending,
scaling policy and GPU budget are the server's own; the engines are simulated step by step on the
profiles of their GPUs, which say what of them was measured. `ours` is the policy that the server
runs. The others are given hindsight: the cheapest of their settings whose goodput is that of ours.
`constant` is the best constant count, `clairvoyant` the cheapest plan found by a search that knows
the trace."""
EPILOG = """examples:
  the server's own scaling policy on recorded traffic:
    python -m loadtest simulate --trace loadtest/traces/azure2023_conv_1h.csv.gz --plot run.png
  a day of 200 times that load on a thousand GPUs:
    python -m loadtest simulate --trace FILE --load 200 --day --gpus T4=500,RTX4090=500

docs/simulation.md says what is simulated and what the numbers mean."""
HELP_FORMAT = common.HelpFormatter


def add_options(parser: argparse.ArgumentParser) -> None:
    common.add_trace(parser, required=True)
    add = parser.add_argument
    add("--gpus", type=types.gpu_counts, default=common.DEFAULT_GPUS, help="GPUs of the cluster")
    add("--policy", choices=POLICIES, default="ours")
    add("--json", type=Path, metavar="OUT", help="write the result here")
    add("--plot", type=Path, metavar="FILE.png", help="draw arrivals, replicas, queue, refusals")
    _add_load(parser)
    add(
        "--initial",
        type=types.initial,
        default=types.AUTO,
        metavar="N|auto",
        help="replicas that serve at the beginning: 2, or chat=2,reasoning=1; auto: what the first "
        "two minutes need, the same for each policy",
    )
    add(
        "--retries",
        type=types.natural,
        default=0,
        metavar="N",
        help="refused requests are retried after their Retry-After, up to N times",
    )
    add("--seed", type=types.natural, default=0, help="of copies, thinning and cells")
    common.add_cluster(parser)
    common.add_scaling(parser)


def _add_load(parser: argparse.ArgumentParser) -> None:
    """What is made of the trace: faster, more of it, a day of it, a part of it."""
    add = parser.add_argument
    add(
        "--rate",
        type=types.positive,
        default=1.0,
        help="let the requests come so many times as fast: the trace's time is squeezed",
    )
    add(
        "--load",
        type=types.positive,
        default=1.0,
        help="so many times the requests in the same time: shifted copies of the trace together",
    )
    add("--day", action="store_true", help="24 hours of the trace, along a day's curve")
    add(
        "--cell",
        type=types.count,
        metavar="K",
        help="simulate one GPU in K, with one request in K; as many as keep it short if not given",
    )


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    from loadtest.simulation.answers import write

    trace, setup = _inputs(options, console)
    result = _result(options, trace, setup, console)
    answer = _answer(options, argv, trace, setup, result)
    if options.json is not None:
        write(options.json, answer)
    print_answer(answer, console)
    if options.plot is not None:
        from loadtest.simulation.timeline_plot import plot

        title = f"{options.policy} on {answer.trace} (simulated)"
        plot(result.outcome.timeline, title, options.plot)
    return 0


def _inputs(options: argparse.Namespace, console: Console) -> tuple["Trace", "Setup"]:
    from loadtest.simulation.initial import initial_replicas
    from loadtest.simulation.inputs import (
        checked_outputs,
        load_trace,
        scaled_setup,
    )

    checked_outputs(json=options.json, plot=options.plot)
    setup = scaled_setup(options)
    trace = load_trace(options.trace, options.tier, options.rate, console)
    if sum(options.gpus.values()) < len(trace.tiers):
        raise UserError("--gpus: each tier of the trace needs a GPU of its own at least")
    trace = replace(trace, times=options.load, day=options.day)
    setup = replace(setup, retries=options.retries, weight=options.cell, seed=options.seed)
    if options.initial is None:
        return trace, replace(setup, initial=initial_replicas(trace, setup))
    initial = {tier: options.initial.get(tier, setup.minimum) for tier in trace.tiers}
    if sum(initial.values()) > setup.gpu_count:
        raise UserError(f"--initial: {sum(initial.values())} replicas, {setup.gpu_count} GPUs")
    return trace, replace(setup, initial=initial)


def _result(
    options: argparse.Namespace, trace: "Trace", setup: "Setup", console: Console
) -> "Result":
    """With a bar that fills once for each run: the policies with hindsight make many."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from loadtest.simulation.contest import run_policy

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{options.policy} on {options.trace.name}", total=1.0)
        watched = replace(setup, seen=lambda done: progress.update(task, completed=done))
        return run_policy(options.policy, trace, watched, goodput=options.goodput)


def _answer(
    options: argparse.Namespace,
    argv: list[str],
    trace: "Trace",
    setup: "Setup",
    result: "Result",
) -> "SimulateAnswer":
    from loadtest.simulation.answers import SimulateAnswer, asked, tier_figures

    outcome, question = result.outcome, asked(argv, setup, options.slo)
    return SimulateAnswer(
        policy=options.policy,
        attainment=outcome.attainment,
        gpu_hours=outcome.gpu_hours,
        scale_actions=outcome.scale_actions,
        attainment_by_tier=outcome.by_tier,
        requests=outcome.requests,
        refused=outcome.refused,
        lent=outcome.lent,
        setting=result.setting,
        settings_tried=result.tried,
        trace=options.trace.name,
        rate=options.rate,
        load=options.load,
        day=options.day,
        cell=outcome.weight,
        simulated_requests=outcome.simulated_requests,
        retries=options.retries,
        seed=options.seed,
        initial=setup.initial,
        goodput=outcome.goodput,
        duration_s=outcome.duration_s,
        clipped=trace.clipped,
        gpus=options.gpus,
        max_wait_s=options.max_wait_s,
        cold_start_s=setup.longest_start_s,
        hardware={
            _long_name(setup.profiles[name]): status for name, status in question.profiles.items()
        },
        date=question.date,
        changes=outcome.changes,
        tiers=tier_figures(outcome),
        cards=_gpu_figures(setup, outcome.gpu_s, outcome.cost_usd),
        cost_usd=outcome.total_cost_usd,
        utilisation=outcome.utilisation,
        timeline=outcome.timeline,
        asked=question,
    )


def _long_name(profile: "GpuProfile") -> str:
    """As `hardware` has always named it where the server knows the GPU."""
    known = {"T4": T4.name, "RTX4090": RTX_4090.name}
    return known.get(profile.name, profile.name)


def _gpu_figures(
    setup: "Setup", gpu_s: Mapping[str, float], cost_usd: Mapping[str, float]
) -> Mapping[str, "GpuFigures"]:
    from loadtest.simulation.answers import GpuFigures
    from loadtest.simulation.inputs import status_of

    found: dict[str, GpuFigures] = {}
    for name in setup.gpus:
        profile = setup.profiles[name]
        price = profile.price_usd_per_hour
        found[name] = GpuFigures(
            gpu_hours=gpu_s.get(name, 0.0) / 3600,
            cost_usd=cost_usd.get(name),
            price_usd_per_hour=None if price is None else price.value,
            price_source=None if price is None else price.source,
            profile=status_of(profile),
        )
    return found


def print_answer(answer: "SimulateAnswer", console: Console) -> None:
    console.print(_summary(answer))
    console.print(_by_tier(answer))
    console.print(_by_gpu_type(answer))
    cell = f" Each simulated GPU stands for {answer.cell:g}." if answer.cell > 1 else ""
    console.print(f"Simulated.{cell}", style="dim", highlight=False)
    formatting.print_profiles(answer.asked.profiles, console)


def _summary(answer: "SimulateAnswer") -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("policy", answer.policy)
    table.add_row("goodput", f"{answer.goodput:.2%} of {answer.requests:,}")
    table.add_row("queue-wait SLO attainment", f"{answer.attainment:.2%} of {answer.requests:,}")
    table.add_row("GPU-hours", f"{answer.gpu_hours:,.3f}, busy for {answer.utilisation:.0%}")
    cost = "not known" if answer.cost_usd is None else f"${answer.cost_usd:,.2f}"
    table.add_row("cost", cost)
    table.add_row("scale actions", str(answer.scale_actions))
    table.add_row("refused, lent", f"{answer.refused:,}, {answer.lent:,}")
    chosen = ", ".join(f"{name} {value}" for name, value in answer.setting.items())
    table.add_row("setting", f"{chosen} (of {answer.settings_tried} tried)")
    return table


def _by_tier(answer: "SimulateAnswer") -> Table:
    table = formatting.plain_table(f"SLO: {formatting.slo(answer.asked.slo)}")
    table.add_column("")
    for tier in answer.tiers:
        table.add_column(tier, justify="right")
    rows = (
        ("requests", lambda tier: number(tier.requests)),
        ("queue-wait SLO attainment", lambda tier: percent(tier.attainment)),
        ("goodput", lambda tier: f"{percent(tier.goodput)}, {tier.goodput_per_s:.2f}/s"),
        ("TTFT p50 / p95", lambda tier: formatting.times(tier.ttft_s)),
        ("TPOT p50 / p95", lambda tier: formatting.times(tier.tpot_s)),
        ("E2E p50 / p95", lambda tier: formatting.times(tier.e2e_s)),
        ("output tokens/s", lambda tier: number(tier.output_tokens_per_s)),
        ("refused", lambda tier: counts(tier.refused)),
        ("forwarded, lent", lambda tier: f"{tier.relayed:,}, {tier.lent:,}"),
    )
    for title, cell in rows:
        table.add_row(title, *(cell(tier) for tier in answer.tiers.values()))
    return table


def _by_gpu_type(answer: "SimulateAnswer") -> Table:
    table = formatting.plain_table("GPUs")
    for title in ("GPU", "GPU-hours", "cost", "$/hour", "price from", "profile"):
        figure = title in ("GPU-hours", "cost", "$/hour")
        table.add_column(title, justify="right" if figure else "left")
    for name, gpu in answer.cards.items():
        known = gpu.price_usd_per_hour is not None
        table.add_row(
            f"{answer.gpus[name]} {name}",
            f"{gpu.gpu_hours:,.3f}",
            "not known" if gpu.cost_usd is None else f"${gpu.cost_usd:,.2f}",
            f"{gpu.price_usd_per_hour:g}" if known else "not known",
            gpu.price_source or "",
            gpu.profile,
        )
    return table
