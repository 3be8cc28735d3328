"""The command line of `loadtest overhead`, and the plan that it asks for."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loadtest.overhead.plan import ClosedLoop, Plan, full_plan, quick_plan
from loadtest.overhead.ray_systems import RAY_SERVE_LLM, SERVE_PROXY_HANDLE
from loadtest.random_model import make_random_qwen2
from loadtest.results_file import RESULTS
from loadtest.systems import BARE, BARE_BESIDE_OURS, OURS
from serve_app.engine.models.model_dir import EMBEDDED_MODEL, ModelNotFoundError, resolve_model

RANDOM = "random"
SYSTEMS = (BARE, BARE_BESIDE_OURS, OURS, RAY_SERVE_LLM, SERVE_PROXY_HANDLE)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "overhead",
        help="a bare vLLM server, tierserve and Ray Serve's own ways in one alternating run",
        description="Starts a bare vLLM server, tierserve's chat tier, Ray Serve LLM and a Serve "
        "deployment behind Serve's proxy and a handle, with the same model and the same engine "
        "arguments, and measures them in turn with streaming chat completions of "
        "fixed length: closed loops, of answers of one length and of unequal ones, and Poisson "
        "arrivals. While one is measured the others stand still, but for the "
        "tierserve that the bare server is measured beside. Then the path alone is measured with "
        "the fake engine. docs/overhead.md has more.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="two rounds: does it run? writes overhead-quick.json")
    add("--rounds", type=_at_least_1, help="repetitions of each system at each level")
    add("--starts", type=_at_least_1, help="the servers are started anew so many times in all")
    add(
        "--systems",
        nargs="+",
        choices=SYSTEMS,
        default=SYSTEMS,
        help="what is measured; the others are compared with `bare`, which is always measured; "
        f"`{BARE_BESIDE_OURS}` needs `{OURS}`",
    )
    add(
        "--concurrency",
        type=_at_least_1,
        nargs="+",
        metavar="N",
        help="numbers of streams, of answers of one length, in place of 1 8 32 and 32 of unequal "
        "lengths",
    )
    add(
        "--open-loop-rate",
        type=_not_negative,
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
    add("--output-tokens", type=_at_least_1, default=64, help="length of the answers, or its mean")
    add("--max-model-len", type=int, default=2048, help="context of the engines, in tokens")
    add("--cpu-slice", default="0/2", help="cores of the servers' engines, as in the config")
    add(
        "--max-foreign-cores",
        type=_not_negative,
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


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan, still without its open loop, whose rate may have to be measured."""
    plan = quick_plan() if options.quick else full_plan()
    if options.concurrency:
        plan = replace(plan, levels=_levels(plan, options.concurrency))
    return replace(
        plan,
        rounds=options.rounds or plan.rounds,
        starts=options.starts or plan.starts,
        output_tokens=options.output_tokens,
        max_foreign_cores=options.max_foreign_cores or plan.max_foreign_cores,
    )


def model_of(options: argparse.Namespace) -> Path:
    """The model's directory; raises ModelNotFoundError."""
    if options.model == RANDOM:
        return make_random_qwen2()
    model = resolve_model(options.model)
    if isinstance(model, str) or not model.is_dir():
        raise ModelNotFoundError(
            f"--model {options.model}: nothing is downloaded or converted here; give the "
            "directory of the model."
        )
    return model


def model_name_of(options: argparse.Namespace) -> str:
    """What results say of the model: no folder of the machine that they were taken on."""
    return Path(options.model).resolve().name


def results_file_of(options: argparse.Namespace, *, whole: bool) -> Path:
    """A run that is quick, or was cut short, does not take the place of a `whole` one."""
    if options.out is not None:
        return options.out
    if options.quick or not whole:
        return RESULTS.with_stem("overhead-quick")
    if options.model == EMBEDDED_MODEL:
        return RESULTS
    return RESULTS.with_stem(f"overhead-{model_name_of(options)}")


def systems_of(options: argparse.Namespace) -> list[str]:
    """The chosen systems in the order of the table, with those that they need."""
    chosen = {BARE, *options.systems}
    if BARE_BESIDE_OURS in chosen:
        chosen.add(OURS)
    return [name for name in SYSTEMS if name in chosen]


def _levels(plan: Plan, concurrencies: Sequence[int]) -> tuple[ClosedLoop, ...]:
    """Whole waves of streams for a level that the plan does not name."""
    named = {level.name: level.requests for level in plan.levels}
    return tuple(ClosedLoop(c, named.get(str(c), 3 * c)) for c in concurrencies)


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)
