"""`loadtest overhead`: start the servers, measure, show, write the results file."""

import contextlib
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from loadtest.overhead import Measured, Plan, full_plan, measure, quick_plan
from loadtest.random_model import make_random_qwen2
from loadtest.results_file import META, RESULTS, bar, comparison, meta, rows, write
from loadtest.stats import Pair
from loadtest.systems import System, bare_vllm, our_chat_tier
from serve_app.config import EngineConfig
from serve_app.serving.ports import free_ports

AGAIN = "bare-again"


def run(options: Namespace, argv: Sequence[str]) -> int:
    console = Console()
    plan = plan_of(options)
    engine = EngineConfig(max_model_len=options.max_model_len, cpu_slice=options.cpu_slice)
    with (
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        ) as progress,
        _servers(options, plan, engine, progress) as (base, other),
    ):
        measured = _measure(base, other, plan, progress)
    results = rows(base, other, measured)
    _show(console, results, measured)
    if options.self_check:
        console.print("A bare server against itself: how far these intervals reach is the noise.")
        return 0
    results[META] = meta(other, measured, plan, argv=argv, engine=engine.model_dump(mode="json"))
    out = options.out or (RESULTS.with_stem("overhead-quick") if options.quick else RESULTS)
    write(out, results)
    console.print(f"written to {_short(out)}")
    return 0


def plan_of(options: Namespace) -> Plan:
    plan = quick_plan() if options.quick else full_plan()
    if options.concurrency:
        plan = replace(plan, requests={c: _requests(plan, c) for c in options.concurrency})
    return replace(
        plan,
        rounds=options.rounds or plan.rounds,
        output_tokens=options.output_tokens,
        max_foreign_cores=options.max_foreign_cores or plan.max_foreign_cores,
    )


def _requests(plan: Plan, concurrency: int) -> int:
    """Whole waves of streams for a level that the plan does not name."""
    return plan.requests.get(concurrency, 3 * concurrency)


@contextlib.contextmanager
def _servers(
    options: Namespace, plan: Plan, engine: EngineConfig, progress: Progress
) -> Iterator[tuple[System, System]]:
    with _phase(progress, "making the model"):
        model = make_random_qwen2()
    slots = max(plan.requests)
    ports = free_ports(2)
    with contextlib.ExitStack() as running:
        with _phase(progress, "starting bare vLLM (about a minute)") as tick:
            base = running.enter_context(bare_vllm(model, engine, port=ports[0], on_wait=tick))
        what = AGAIN if options.self_check else "tierserve with Ray and HAProxy"
        with _phase(progress, f"starting {what} (about a minute)") as tick:
            second = (
                bare_vllm(model, engine, port=ports[1], on_wait=tick, name=AGAIN)
                if options.self_check
                else our_chat_tier(model, engine, slots=slots, on_wait=tick)
            )
            other = running.enter_context(second)
        try:
            yield base, other
        finally:
            progress.console.print("stopping what was started")


@contextlib.contextmanager
def _phase(progress: Progress, description: str) -> Iterator[Callable[[], None]]:
    task = progress.add_task(description, total=1)
    yield lambda: progress.update(task)
    progress.update(task, completed=1)


def _measure(base: System, other: System, plan: Plan, progress: Progress) -> Measured:
    tasks = {
        c: progress.add_task(f"{c} stream{'s' if c > 1 else ''}: pairs", total=plan.rounds)
        for c in plan.requests
    }

    def on_pair(concurrency: int, pair: Pair) -> None:
        base_per_s, other_per_s = (repetition.tokens_per_s for repetition in pair)
        line = (
            f"{concurrency} streams: {base_per_s:,.0f} and {other_per_s:,.0f} tokens/s, "
            f"{other_per_s / base_per_s:.2f}"
        )
        progress.update(tasks[concurrency], advance=1, description=line)
        if not progress.console.is_terminal:
            # Bars are drawn once, at the end, where nobody watches them.
            progress.console.print(line)

    return measure(base, other, plan, on_pair)


def _show(console: Console, results: dict[str, Any], measured: Measured) -> None:
    table = Table("streams", "server", "tokens/s", "TTFT p50", "p95", "ITL p50", "CPU s/1k tokens")
    for concurrency in measured.pairs:
        for system, by_concurrency in results.items():
            figures = by_concurrency[str(concurrency)].values()
            table.add_row(str(concurrency), system, *(f"{value:,.2f}" for value in figures))
    console.print(table)
    compared = comparison(measured)
    for concurrency, figures in compared.items():
        ratio, added = figures["tokens_per_s_ratio"], figures["ttft_p50_added_ms"]
        console.print(
            f"{concurrency} streams: {ratio['value']:.3f} of bare's tokens a second "
            f"({ratio['low']:.3f} to {ratio['high']:.3f}); TTFT p50 {added['value']:+.1f} ms "
            f"({added['low']:+.1f} to {added['high']:+.1f})"
        )
    for promise, kept in bar(compared).items():
        console.print(f"{'[green]kept' if kept else '[red]missed'}[/] {promise}")
    idle = ", ".join(f"{name} {cores:.2f}" for name, cores in measured.idle_cores.items())
    console.print(f"cores used when idle: {idle}; pairs thrown away: {measured.disturbed}")


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
