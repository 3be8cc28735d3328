"""`python -m loadtest overhead`: start the servers, measure, show, write the results file."""

import argparse
import contextlib
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

from loadtest.errors import MeasurementError
from loadtest.options import not_negative, positive
from loadtest.report.results_file import META, write
from loadtest.servers.systems import (
    BARE,
    BARE_BESIDE_OURS,
    OURS,
    OURS_V1,
    System,
    at_v1,
    bare_vllm,
    our_chat_tier,
)
from loadtest.studies.overhead.measure import Measured, Repetition, Turn, measure, repeat
from loadtest.studies.overhead.options import (
    RANDOM,
    SYSTEMS,
    model_name_of,
    model_of,
    plan_of,
    results_file_of,
    systems_of,
)
from loadtest.studies.overhead.plan import OPEN_LOOP_SHARE, Level, Plan
from loadtest.studies.overhead.pure_path import pure_path_plan, pure_path_results, pure_path_systems
from loadtest.studies.overhead.ray_systems import (
    RAY_SERVE_LLM,
    SERVE_PROXY_HANDLE,
    check_ray_llm,
    ray_serve_llm,
    serve_proxy_handle,
)
from loadtest.studies.overhead.results import meta, rows, table
from serve_app.config.tier import EngineConfig
from serve_app.engine.models.model_dir import EMBEDDED_MODEL, ModelNotFoundError
from serve_app.local.cluster import ClusterError
from serve_app.local.ports import free_ports

AGAIN = "bare-again"
# As in deploy/single-gpu.yaml, for two engines on one GPU.
SHARED_UTILIZATION = 0.44
DESCRIPTION = (
    "Starts a bare vLLM server, tierserve's chat tier, Ray Serve LLM and a Serve "
    "deployment behind Serve's proxy and a handle, with the same model and the same engine "
    "arguments, and measures them in turn with streaming chat completions of "
    "fixed length: closed loops, of answers of one length and of unequal ones, and Poisson "
    "arrivals. While one is measured the others stand still, but for the "
    "tierserve that the bare server is measured beside. Then the path alone is measured with "
    "the fake engine. docs/overhead.md has more."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="two rounds: does it run? writes overhead-quick.json")
    add("--rounds", type=positive, help="repetitions of each system at each level")
    add("--starts", type=positive, help="the servers are started anew so many times in all")
    add(
        "--systems",
        nargs="+",
        choices=SYSTEMS,
        default=SYSTEMS,
        help="what is measured; the others are compared with `bare`, which is always measured; "
        f"`{BARE_BESIDE_OURS}` and `{OURS_V1}` need `{OURS}`",
    )
    add(
        "--concurrency",
        type=positive,
        nargs="+",
        metavar="N",
        help="numbers of streams, of answers of one length, in place of 1 8 32 and 32 of unequal "
        "lengths",
    )
    add(
        "--open-loop-rate",
        type=not_negative,
        metavar="RPS",
        help="arrivals a second of the open loop; 0: no open loop; unset: half of what the bare "
        "server answers in the largest closed loop",
    )
    add(
        "--model",
        default=EMBEDDED_MODEL,
        help=f"a real one: {EMBEDDED_MODEL}, micro-r1, or a model's directory; or `{RANDOM}`: 7M "
        "parameters, whose steps are so short that serving shows beside them. Results go to "
        f"overhead-<model>.json, those of {EMBEDDED_MODEL} to overhead.json",
    )
    add("--output-tokens", type=positive, default=64, help="length of the answers, or its mean")
    add("--max-model-len", type=int, default=2048, help="context of the engines, in tokens")
    add("--cpu-slice", default="0/2", help="cores of the servers' engines, as in the config")
    add(
        "--max-foreign-cores",
        type=not_negative,
        metavar="CORES",
        help="make a repetition again when other programs used more than this",
    )
    add("--no-pure-path", action="store_true", help="leave out the path with the fake engine")
    add("--self-check", action="store_true", help="only a second bare server beside the bare one")
    add(
        "--out",
        type=Path,
        help="results file; default: loadtest/results/overhead.json, or another one beside it",
    )


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Raises MeasurementError where nothing could be measured."""
    names = [BARE, AGAIN] if options.self_check else systems_of(options)
    engine = EngineConfig(
        max_model_len=options.max_model_len,
        cpu_slice=options.cpu_slice,
        # Both servers are up at once; on a CPU it counts for nothing.
        gpu_memory_utilization=SHARED_UTILIZATION,
    )
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
    except (ModelNotFoundError, ClusterError) as error:
        raise MeasurementError(f"{error}\n{getattr(error, 'detail', '')}") from None
    except KeyboardInterrupt:
        interrupted = True
    if not measured.rounds:
        raise MeasurementError("No round was measured to its end: nothing is written.")
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
        if OURS_V1 in names:
            systems[OURS_V1] = at_v1(systems[OURS])
        try:
            yield [systems[name] for name in names]
        finally:
            progress.console.print("stopping what was started")


def beside(bare: System, ours: System) -> System:
    """The bare server, measured while the other one goes on without requests."""
    return replace(bare, name=BARE_BESIDE_OURS, beside=(ours.run_id,))


def with_rates(
    options: argparse.Namespace,
    plan: Plan,
    bare: System,
    systems: Sequence[System],
    progress: Progress,
) -> Plan:
    """The plan with repetitions that are long enough for what `bare` can, and with an open loop at
    the chosen rate, or at a fraction of that."""
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
