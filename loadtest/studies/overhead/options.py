"""The command line of `loadtest overhead`, and the plan that it asks for."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loadtest.report.results_file import RESULTS
from loadtest.servers.random_model import make_random_qwen2
from loadtest.servers.systems import BARE, BARE_BESIDE_OURS, OURS, OURS_V1
from loadtest.studies.overhead.plan import ClosedLoop, Plan, full_plan, quick_plan
from loadtest.studies.overhead.ray_systems import RAY_SERVE_LLM, SERVE_PROXY_HANDLE
from serve_app.engine.models.model_dir import EMBEDDED_MODEL, ModelNotFoundError, resolve_model

RANDOM = "random"
SYSTEMS = (BARE, BARE_BESIDE_OURS, OURS, OURS_V1, RAY_SERVE_LLM, SERVE_PROXY_HANDLE)


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
        return RESULTS / "overhead-quick.json"
    if options.model == EMBEDDED_MODEL:
        return RESULTS / "overhead.json"
    return RESULTS / f"overhead-{model_name_of(options)}.json"


def systems_of(options: argparse.Namespace) -> list[str]:
    """The chosen systems in the order of the table, with those that they need."""
    chosen = {BARE, *options.systems}
    if chosen & {BARE_BESIDE_OURS, OURS_V1}:
        chosen.add(OURS)
    return [name for name in SYSTEMS if name in chosen]


def _levels(plan: Plan, concurrencies: Sequence[int]) -> tuple[ClosedLoop, ...]:
    """Whole waves of streams for a level that the plan does not name."""
    named = {level.name: level.requests for level in plan.levels}
    return tuple(ClosedLoop(c, named.get(str(c), 3 * c)) for c in concurrencies)
