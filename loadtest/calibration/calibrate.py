"""Measures a running server and makes the profile of its GPU."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from loadtest.calibration import samples
from loadtest.calibration.fit import CONTEXT, PROMPT, Fit, Fits, curve_ms, fit_all
from loadtest.calibration.samples import FirstToken
from loadtest.calibration.waves import SHORT_TOKENS, Answered, Wave, ask_rounds, plan
from loadtest.client.chat import RunClock, open_session
from loadtest.client.server_info import ServerInfo, info_of
from loadtest.errors import UserError
from loadtest.load.run import on_own_loop
from loadtest.load.targets import Target, Watch, find_target
from loadtest.report.pictures import COLORS, LEGEND, SMALL, make_figure, save
from loadtest.report.progress import bars
from loadtest.report.results_file import provenance
from loadtest.scenario import Load, Poisson, Scenario
from loadtest.simulation.profile import (
    MOST_UNCERTAINTY,
    TOTAL,
    MeasuredOn,
    known_profiles,
)
from loadtest.simulation.profile import (
    GpuProfile as GpuProfile,
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
class CalibrationSettings:
    """What the command line says; None where the server is to report it."""

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
class Calibrated:
    """`model` is the name that the server lists."""

    info: ServerInfo
    target: Target
    answered: Sequence[Answered]
    interrupted: bool


def measure(settings: CalibrationSettings, console: Console) -> Calibrated:
    """All waves; those that had ended when Ctrl-C came."""
    answered: list[Answered] = []
    found: list[tuple[ServerInfo, Target]] = []
    interrupted = False
    try:
        on_own_loop(_measure(settings, found, answered.append, console))
    except KeyboardInterrupt:
        interrupted = True
    if not found:
        raise UserError("Interrupted before anything was measured.")
    return Calibrated(*found[0], answered, interrupted)


async def _measure(
    settings: CalibrationSettings,
    found: list[tuple[ServerInfo, Target]],
    on_wave: Callable[[Answered], None],
    console: Console,
) -> None:
    async with open_session(TIMEOUT_S, settings.api_key) as session:
        info = await info_of(session, settings.base_url, settings.tier)
        scenario = _scenario(settings)
        target = await find_target(session, scenario, settings.tier, scenario.loads[0])
        _check(settings, info)
        found.append((info, target))
        waves = plan(_slots(settings, info), context_tokens(target))
        ask = partial(ask_rounds, session, target, settings.tier)
        await ask(WARM_UP, rounds=1, limit_s=settings.limit_s, on_wave=lambda _: None)
        with bars(console) as progress:
            bar = progress.add_task("calibrating", total=len(waves) * settings.rounds)

            def seen(wave: Answered) -> None:
                on_wave(wave)
                progress.update(bar, advance=1, description=wave.wave.words())

            # A load run looks at the server too, once a second, which costs it some time.
            watch = asyncio.create_task(Watch(RunClock()).run(session, settings.base_url))
            try:
                await ask(waves, rounds=settings.rounds, limit_s=settings.limit_s, on_wave=seen)
            finally:
                watch.cancel()


def _scenario(settings: CalibrationSettings) -> Scenario:
    """What `find_target` asks for; it is not run."""
    load = Load(tier=settings.tier, arrivals=Poisson(rate=1.0), requests=1)
    return Scenario(base_url=settings.base_url, loads=(load,))


def context_tokens(target: Target) -> int:
    """Room for a prompt. A tier keeps its longest answer free, whatever is asked for."""
    context = target.context_tokens or EngineConfig().max_model_len
    return context - (target.max_new_tokens or 0)


def _check(settings: CalibrationSettings, info: ServerInfo) -> None:
    """Raises UserError for what the profile will miss, before minutes are spent."""
    _name(settings, info)
    _kv_tokens(settings, info)
    _max_sequences(settings, info)
    _start_s(settings, info)


def _slots(settings: CalibrationSettings, info: ServerInfo) -> int:
    slots = settings.slots or info.slots
    if slots is None:
        raise UserError("The server does not say how many it runs at once: give --slots.")
    return slots


def fit(answered: Sequence[Answered]) -> Fits:
    """Raises UserError where too little was measured."""
    return fit_all(
        samples.steps(answered), samples.busy_times(answered), samples.first_tokens(answered)
    )


def profile_of(
    settings: CalibrationSettings, measured: Calibrated, fits: Fits, argv: Sequence[str]
) -> GpuProfile:
    info = measured.info
    name = _name(settings, info)
    line, first = fits.line, fits.first_tokens
    return GpuProfile(
        name=name,
        accelerator_type=info.accelerator_type,
        model=_model_name(info.model or measured.target.model),
        base_ms=_fitted(line, "base_ms", "decode steps, a straight line"),
        per_sequence_ms=_fitted(line, "per_sequence_ms", "decode steps, a straight line"),
        by_sequences=_curve(fits.curve),
        per_context_ktoken_ms=_fitted(fits.curve, CONTEXT, "decode steps"),
        per_prompt_token_ms=_fitted(first, "per_prompt_token_ms", "first tokens"),
        per_prompt_ms=_fitted(fits.curve, PROMPT, "steps under load"),
        per_prompt_mpair_ms=_fitted(first, "per_prompt_mpair_ms", "first tokens"),
        overhead_ms=_fitted(first, "overhead_ms", "first tokens"),
        step_tokens=_given(settings.step_tokens, "--step-tokens"),
        kv_tokens=_kv_tokens(settings, info),
        max_sequences=_max_sequences(settings, info),
        start_s=_start_s(settings, info),
        price_usd_per_hour=_price(settings, name),
        measured_on=MeasuredOn(**provenance(argv)),
    )


def _name(settings: CalibrationSettings, info: ServerInfo) -> str:
    name = settings.name or NAMES.get(info.accelerator_type)
    if name is None:
        raise UserError(f"{info.accelerator_type} has no short name here: give --name.")
    return name


def _model_name(model: str) -> str:
    """A directory's name only: where it is on the measured machine is nothing to others."""
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


def _kv_tokens(settings: CalibrationSettings, info: ServerInfo) -> Figure:
    if settings.kv_tokens is not None:
        return _given(settings.kv_tokens, "--kv-tokens")
    if info.kv_tokens is None:
        raise UserError("The server's metrics do not say the size of its KV cache: --kv-tokens.")
    source = "vllm:cache_config_info, num_gpu_blocks * block_size"
    return Figure(value=info.kv_tokens, status="measured", source=source, uncertainty=0.0)


def _max_sequences(settings: CalibrationSettings, info: ServerInfo) -> Figure:
    if info.slots is None:
        return _given(_slots(settings, info), "--slots")
    hardware = hardware_for(info.accelerator_type)
    return _given(hardware.max_sequences, "serve_app/core/placement/hardware.py, given to vLLM")


def _start_s(settings: CalibrationSettings, info: ServerInfo) -> Mapping[str, Figure]:
    if settings.start_s is not None:
        return {TOTAL: _given(settings.start_s, "--start-s")}
    if info.start_s is None or TOTAL not in info.start_s:
        raise UserError("The server does not say how long its start took: give --start-s.")
    source = "GET /api/tiers, start_phases_s of the running replica"
    return {
        phase: Figure(value=seconds, status="measured", source=source)
        for phase, seconds in info.start_s.items()
    }


def _price(settings: CalibrationSettings, name: str) -> Figure | None:
    if settings.price_usd_per_hour is not None:
        return _given(settings.price_usd_per_hour, "--price-usd-per-hour")
    known = known_profiles().get(name)
    return known.price_usd_per_hour if known else None


def draw(fits: Fits, first_tokens: Sequence[FirstToken], title: str, path: Path) -> None:
    """Two panels: a decode step by batch size, and the first token by length of the prompt."""
    figure = make_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=11)
    left.set_title("decode step, by sequences at once; measured and fitted", **SMALL)
    for number, (label, low, high) in enumerate(_CONTEXTS):
        own = [
            (step, fitted)
            for step, fitted in zip(fits.steps, fits.curve.fitted_ms, strict=True)
            if low <= step.context_tokens / step.sequences < high
        ]
        if not own:
            continue
        color = COLORS[number]
        batches = [step.sequences for step, _ in own]
        measured_ms = [step.step_ms for step, _ in own]
        left.plot(batches, measured_ms, "o", color=color, alpha=0.6, label=label)
        line = sorted((step.sequences, fitted) for step, fitted in own)
        left.plot(*zip(*line, strict=True), color=color, linewidth=1.2)
    left.set_xlabel("sequences")
    left.set_ylabel("ms a step")
    right.set_title("first token, by length of the prompt; alone", **SMALL)
    prompts = [first.prompt_tokens for first in first_tokens]
    right.plot(
        prompts,
        [first.ttft_ms for first in first_tokens],
        "o",
        color=COLORS[0],
        alpha=0.6,
        label="measured",
    )
    line = sorted(zip(prompts, fits.first_tokens.fitted_ms, strict=True))
    right.plot(*zip(*line, strict=True), color=COLORS[1], linewidth=1.2, label="fitted")
    right.set_xlabel("prompt tokens")
    right.set_ylabel("TTFT, ms")
    for axis in (left, right):
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.legend(loc="best", **LEGEND)
    save(figure, path, grid="both")


_CONTEXTS = (
    ("contexts below 256 tokens", 0, 256),
    ("256 to 800", 256, 800),
    ("800 and more", 800, float("inf")),
)
