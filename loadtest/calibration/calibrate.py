"""Measures a running server and makes the profile of its card."""

import asyncio
import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress

from loadtest.calibration import samples
from loadtest.calibration.fit import CONTEXT, PROMPT, Fit, Fits, TooLittle, curve_ms, fit_all
from loadtest.calibration.told import Told, told_by
from loadtest.calibration.waves import SHORT_TOKENS, Answered, Wave, ask_rounds, plan
from loadtest.load.ask import open_session
from loadtest.load.faults import LoadFault
from loadtest.load.generator import RunClock
from loadtest.load.scenario import Load, Poisson, Scenario
from loadtest.load.server import Target, Watch, find_target
from loadtest.results_file import commit, machine, versions
from loadtest.simulation.profile import (
    MOST_UNCERTAINTY,
    TOTAL,
    MeasuredOn,
    known_profiles,
)
from loadtest.simulation.profile import (
    GpuProfile as CardProfile,
)
from loadtest.simulation.profile import (
    ProfileFigure as Figure,
)
from loadtest.simulation.profile import (
    StepTimeCurve as Curve,
)
from serve_app.config.engine import EngineConfig
from serve_app.core.placement.hardware import RTX_4090, T4, hardware_for

NAMES = {T4.accelerator_type: "T4", RTX_4090.accelerator_type: "RTX4090", None: "cpu"}
WARM_UP = (Wave(1, SHORT_TOKENS, 16),)
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says; None where the server is to say it."""

    base_url: str
    tier: str
    name: str | None
    rounds: int
    limit_s: float
    slots: int | None
    step_tokens: int
    kv_tokens: int | None
    start_s: float | None
    price_usd_per_hour: float | None
    api_key: str | None


@dataclass(frozen=True, slots=True)
class Measured:
    """`model` is the name that the server lists."""

    told: Told
    target: Target
    answered: Sequence[Answered]
    interrupted: bool


def measure(wanted: Wanted, console: Console) -> Measured:
    """All waves; those that had ended when Ctrl-C came."""
    answered: list[Answered] = []
    found: list[tuple[Told, Target]] = []
    interrupted = False
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_measure(wanted, found, answered.append, console))
        except KeyboardInterrupt:
            interrupted = True
    if not found:
        raise LoadFault("Interrupted before anything was measured.")
    return Measured(*found[0], answered, interrupted)


async def _measure(
    wanted: Wanted,
    found: list[tuple[Told, Target]],
    on_wave: Callable[[Answered], None],
    console: Console,
) -> None:
    async with open_session(TIMEOUT_S, wanted.api_key) as session:
        told = await told_by(session, wanted.base_url, wanted.tier)
        scenario = _scenario(wanted)
        target = await find_target(session, scenario, wanted.tier, scenario.loads[0])
        _check(wanted, told)
        found.append((told, target))
        waves = plan(_slots(wanted, told), context_tokens(target))
        ask = partial(ask_rounds, session, target, wanted.tier)
        await ask(WARM_UP, rounds=1, limit_s=wanted.limit_s, on_wave=lambda _: None)
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("calibrating", total=len(waves) * wanted.rounds)

            def seen(wave: Answered) -> None:
                on_wave(wave)
                progress.update(bar, advance=1, description=wave.wave.words())

            # A load run looks at the server too, once a second, which costs it some time.
            watch = asyncio.create_task(Watch(RunClock()).run(session, wanted.base_url))
            try:
                await ask(waves, rounds=wanted.rounds, limit_s=wanted.limit_s, on_wave=seen)
            finally:
                watch.cancel()


def _scenario(wanted: Wanted) -> Scenario:
    """What `find_target` asks for; it is not run."""
    load = Load(tier=wanted.tier, arrivals=Poisson(rate=1.0), requests=1)
    return Scenario(base_url=wanted.base_url, loads=(load,))


def context_tokens(target: Target) -> int:
    """Room for a prompt. A tier keeps its longest answer free, whatever is asked for."""
    context = target.context_tokens or EngineConfig().max_model_len
    return context - (target.max_new_tokens or 0)


def _check(wanted: Wanted, told: Told) -> None:
    """Raises LoadFault for what the profile will lack, before minutes are spent."""
    _name(wanted, told)
    _kv_tokens(wanted, told)
    _max_sequences(wanted, told)
    _start_s(wanted, told)


def _slots(wanted: Wanted, told: Told) -> int:
    slots = wanted.slots or told.slots
    if slots is None:
        raise LoadFault("The server does not say how many it runs at once: give --slots.")
    return slots


def fit(answered: Sequence[Answered]) -> Fits:
    """Raises LoadFault where too little was measured."""
    try:
        return fit_all(
            samples.steps(answered), samples.busy_times(answered), samples.first_tokens(answered)
        )
    except TooLittle as fault:
        raise LoadFault(f"Too little was measured for a profile. {fault}") from None


def profile_of(wanted: Wanted, measured: Measured, fits: Fits, command: str) -> CardProfile:
    told = measured.told
    name = _name(wanted, told)
    line, first = fits.line, fits.first_tokens
    return CardProfile(
        name=name,
        accelerator_type=told.accelerator_type,
        model=_model_name(told.model or measured.target.model),
        base_ms=_fitted(line, "base_ms", "decode steps, a straight line"),
        per_sequence_ms=_fitted(line, "per_sequence_ms", "decode steps, a straight line"),
        by_sequences=_curve(fits.curve),
        per_context_ktoken_ms=_fitted(fits.curve, CONTEXT, "decode steps"),
        per_prompt_token_ms=_fitted(first, "per_prompt_token_ms", "first tokens"),
        per_prompt_ms=_fitted(fits.curve, PROMPT, "steps under load"),
        per_prompt_mpair_ms=_fitted(first, "per_prompt_mpair_ms", "first tokens"),
        overhead_ms=_fitted(first, "overhead_ms", "first tokens"),
        step_tokens=_given(wanted.step_tokens, "--step-tokens"),
        kv_tokens=_kv_tokens(wanted, told),
        max_sequences=_max_sequences(wanted, told),
        start_s=_start_s(wanted, told),
        price_usd_per_hour=_price(wanted, name),
        measured_on=MeasuredOn(
            machine=machine(),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions=versions(),
            commit=commit(),
            command=command,
        ),
    )


def _name(wanted: Wanted, told: Told) -> str:
    name = wanted.name or NAMES.get(told.accelerator_type)
    if name is None:
        raise LoadFault(f"{told.accelerator_type} has no short name here: give --name.")
    return name


def _model_name(model: str) -> str:
    """A directory's name only: where it is on the measured machine tells others nothing."""
    return Path(model).name if Path(model).is_absolute() else model


def _fitted(of: Fit, name: str, what: str) -> Figure:
    return Figure(
        value=round(of[name], 5),
        status="measured",
        source=f"{what}: {of.words()}",
        uncertainty=_rounded_up(of.uncertainty(name)),
    )


def _rounded_up(uncertainty: float) -> float:
    """To a thousandth; no profile says more than that a figure may be twice or half as large."""
    return math.ceil(min(uncertainty, MOST_UNCERTAINTY) * 1e3) / 1e3


def _curve(of: Fit) -> Curve:
    rounded = {sequences: round(ms, 5) for sequences, ms in curve_ms(of).items()}
    return Curve(
        step_ms=rounded,
        status="measured",
        source=f"decode steps: {of.words()}",
        uncertainty=_rounded_up(of.typical_off),
    )


def _given(value: float, source: str) -> Figure:
    return Figure(value=value, status="given", source=source)


def _kv_tokens(wanted: Wanted, told: Told) -> Figure:
    if wanted.kv_tokens is not None:
        return _given(wanted.kv_tokens, "--kv-tokens")
    if told.kv_tokens is None:
        raise LoadFault("The server's metrics do not say the size of its KV cache: --kv-tokens.")
    source = "vllm:cache_config_info, num_gpu_blocks * block_size"
    return Figure(value=told.kv_tokens, status="measured", source=source, uncertainty=0.0)


def _max_sequences(wanted: Wanted, told: Told) -> Figure:
    if told.slots is None:
        return _given(_slots(wanted, told), "--slots")
    hardware = hardware_for(told.accelerator_type)
    return _given(hardware.max_sequences, "serve_app/core/placement/hardware.py, given to vLLM")


def _start_s(wanted: Wanted, told: Told) -> Mapping[str, Figure]:
    if wanted.start_s is not None:
        return {TOTAL: _given(wanted.start_s, "--start-s")}
    if told.start_s is None or TOTAL not in told.start_s:
        raise LoadFault("The server does not say how long its start took: give --start-s.")
    source = "GET /api/tiers, start_phases_s of the running replica"
    return {
        phase: Figure(value=seconds, status="measured", source=source)
        for phase, seconds in told.start_s.items()
    }


def _price(wanted: Wanted, name: str) -> Figure | None:
    if wanted.price_usd_per_hour is not None:
        return _given(wanted.price_usd_per_hour, "--price-usd-per-hour")
    known = known_profiles().get(name)
    return known.price_usd_per_hour if known else None
