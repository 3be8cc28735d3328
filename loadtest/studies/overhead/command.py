"""`loadtest overhead`: start the servers, measure, show, write the results file."""

import contextlib
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from loadtest.overhead.options import (
    model_name_of,
    model_of,
    plan_of,
    results_file_of,
    systems_of,
)
from loadtest.overhead.plan import OPEN_LOOP_SHARE, Level, Plan
from loadtest.overhead.pure_path import pure_path_plan, pure_path_results, pure_path_systems
from loadtest.overhead.ray_systems import (
    RAY_SERVE_LLM,
    SERVE_PROXY_HANDLE,
    check_ray_llm,
    ray_serve_llm,
    serve_proxy_handle,
)
from loadtest.overhead.repetition import Turn, repeat
from loadtest.overhead.results import meta, rows
from loadtest.overhead.rounds import Measured, measure
from loadtest.overhead.table import table
from loadtest.results_file import META, write
from loadtest.sse_client import StreamFailure
from loadtest.stats import Repetition
from loadtest.systems import (
    BARE,
    BARE_BESIDE_OURS,
    OURS,
    StartFailure,
    System,
    bare_vllm,
    our_chat_tier,
)
from serve_app.config.tier import EngineConfig
from serve_app.engine.models.model_dir import ModelNotFoundError
from serve_app.local.cluster import ClusterError
from serve_app.local.ports import free_ports

AGAIN = "bare-again"


def run(options: Namespace, argv: Sequence[str], console: Console) -> int:
    """Returns the exit code: 1 where nothing could be measured."""
    names = [BARE, AGAIN] if options.self_check else systems_of(options)
    engine = EngineConfig(max_model_len=options.max_model_len, cpu_slice=options.cpu_slice)
    measured, pure, plan = Measured(), Measured(), plan_of(options)
    interrupted = False
    try:
        if RAY_SERVE_LLM in names:
            check_ray_llm()
        with _progress(console) as progress:
            with _phase(progress, "finding the model, or making it"):
                model = model_of(options)
            for numbers in plan.rounds_by_start():
                with _servers(names, model, engine, plan.slots, progress) as systems:
                    if not measured.rounds:
                        plan = with_rates(options, plan, systems[0], systems, progress)
                    _measure(systems, plan, numbers, measured, progress)
            if not (options.no_pure_path or options.self_check):
                _measure_pure_path(model, pure_path_plan(plan), pure, progress)
    except (ModelNotFoundError, StartFailure, ClusterError, StreamFailure) as fault:
        detail = getattr(fault, "detail", "")
        console.print(f"[red]{fault}[/]", detail, *getattr(fault, "__notes__", ()), sep="\n")
        return 1
    except KeyboardInterrupt:
        interrupted = True
    if not measured.rounds:
        console.print("No round was measured to its end: nothing is written.")
        return 1
    results = rows(names, measured)
    results[META] = meta(
        names,
        measured,
        plan,
        argv=argv,
        model=model_name_of(options),
        engine=engine.model_dump(mode="json"),
    ) | {"interrupted": interrupted}
    if pure.rounds:
        results[META]["pure_path"] = pure_path_results(pure)
    _show(console, results)
    if options.self_check:
        console.print("A bare server against itself: how far these intervals reach is the noise.")
        return 0
    out = results_file_of(options, whole=not interrupted)
    write(out, results)
    console.print(f"written to {_short(out)}")
    return 0


@contextlib.contextmanager
def _servers(
    names: Sequence[str], model: Path, engine: EngineConfig, slots: int, progress: Progress
) -> Iterator[list[System]]:
    """All servers at once, started one after the other."""
    starts: dict[str, Callable[[Callable[[], None]], contextlib.AbstractContextManager[System]]] = {
        BARE: lambda tick: bare_vllm(model, engine, port=free_ports(1)[0], on_wait=tick),
        AGAIN: lambda tick: bare_vllm(
            model, engine, port=free_ports(1)[0], on_wait=tick, name=AGAIN
        ),
        OURS: lambda tick: our_chat_tier(model, engine, slots=slots, on_wait=tick),
        RAY_SERVE_LLM: lambda tick: ray_serve_llm(model, engine, on_wait=tick),
        SERVE_PROXY_HANDLE: lambda tick: serve_proxy_handle(
            model, engine, slots=slots, on_wait=tick
        ),
    }
    with contextlib.ExitStack() as running:
        systems: dict[str, System] = {}
        for name in (name for name in names if name in starts):
            with _phase(progress, f"starting {name} (up to a minute)") as tick:
                systems[name] = running.enter_context(starts[name](tick))
        if BARE_BESIDE_OURS in names:
            systems[BARE_BESIDE_OURS] = beside(systems[BARE], systems[OURS])
        try:
            yield [systems[name] for name in names]
        finally:
            progress.console.print("stopping what was started")


def beside(bare: System, ours: System) -> System:
    """The bare server, measured while the other one goes on without requests."""
    return replace(bare, name=BARE_BESIDE_OURS, beside=(ours.run_id,))


def with_rates(
    options: Namespace, plan: Plan, bare: System, systems: Sequence[System], progress: Progress
) -> Plan:
    """The plan with repetitions that are long enough for what `bare` can, and with an open loop at
    the chosen rate, or at a share of that."""
    rates_rps: dict[str, float] = {}
    open_loop_rps = options.open_loop_rate
    asked = plan.levels if plan.repetition_s else (plan.largest,)
    if not plan.repetition_s and open_loop_rps is not None:
        asked = ()  # quick rounds of a chosen rate depend on nothing that can be measured
    with _phase(progress, "measuring how long a repetition is"):
        for level in asked:
            # The first one after the start may be slow.
            tries = [repeat(bare, systems, plan, level, Turn(-1, n)) for n in range(2)]
            tokens_per_s = max(repetition.tokens_per_s for repetition in tries)
            rates_rps[level.name] = tokens_per_s / plan.output_tokens
    if open_loop_rps is None:
        open_loop_rps = round(OPEN_LOOP_SHARE * rates_rps[plan.largest.name], 1)
        progress.console.print(f"open loop: {open_loop_rps:g} requests a second")
    if plan.repetition_s:
        plan = plan.lengthened(rates_rps)
    return plan.with_open_loop(open_loop_rps) if open_loop_rps > 0 else plan


def _measure_pure_path(model: Path, plan: Plan, measured: Measured, progress: Progress) -> None:
    with contextlib.ExitStack() as running:
        with _phase(progress, "starting both ends of the path with the fake engine") as tick:
            systems = running.enter_context(
                pure_path_systems(model, port=free_ports(1)[0], slots=plan.slots, on_wait=tick)
            )
        _measure(systems, plan, range(plan.rounds), measured, progress)


def _measure(
    systems: Sequence[System],
    plan: Plan,
    numbers: Sequence[int],
    measured: Measured,
    progress: Progress,
) -> None:
    total = len(numbers) * len(systems)
    tasks = {
        level.name: progress.add_task(f"{level.name}: repetitions", total=total)
        for level in plan.levels
    }

    def on_repetition(level: Level, system: System, repetition: Repetition) -> None:
        line = f"{level.name}: {system.name} {repetition.tokens_per_s:,.0f} tokens/s"
        progress.update(tasks[level.name], advance=1, description=line)
        if not progress.console.is_terminal:
            # Bars are drawn once, at the end, where nobody watches them.
            progress.console.print(line)

    measure(systems, plan, numbers, measured, on_repetition)


def _progress(console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    return Progress(*columns, MofNCompleteColumn(), TimeElapsedColumn(), console=console)


@contextlib.contextmanager
def _phase(progress: Progress, description: str) -> Iterator[Callable[[], None]]:
    task = progress.add_task(description, total=1)
    yield lambda: progress.update(task)
    progress.update(task, completed=1)


def _show(console: Console, results: dict[str, Any]) -> None:
    console.print(Markdown(table(results)))
    idle = ", ".join(f"{name} {cores:.2f}" for name, cores in results[META]["idle_cores"].items())
    thrown_away = results[META]["repetitions_thrown_away"]
    console.print(f"cores used when idle: {idle}; repetitions thrown away: {thrown_away}")


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
