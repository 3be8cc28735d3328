"""From options to what is simulated: profiles, traffic, the cluster. Errors name the option."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from loadtest.errors import UserError
from loadtest.scenario import Slo
from loadtest.simulation.profile import GpuProfile, ProfileFigure, known_profiles
from loadtest.simulation.profile import read_profile as read_profile_file
from loadtest.simulation.setup import Setup
from loadtest.simulation.static_set import Bench
from loadtest.simulation.trace import Trace, read_trace, tier_of_file
from loadtest.simulation.traffic import Independent, ReplayedTraffic, ScalableTraffic
from serve_app.core.tiers import Tier

# In one of the many simulations of an answer; a large set is simulated by a part of it.
MOST_REQUESTS = 60_000
STEP_FIGURES = (
    "base_ms",
    "per_sequence_ms",
    "per_prompt_token_ms",
    "per_context_ktoken_ms",
    "kv_tokens",
    "overhead_ms",
)


def profiles_of(options: argparse.Namespace) -> Mapping[str, GpuProfile]:
    """Those of the package, those of --profile in their place or beside them, at --price."""
    found = dict(known_profiles())
    for path in options.profile:
        profile = read_profile_file(path)
        found[profile.name] = profile
    for name, price in options.price.items():
        if name not in found:
            raise UserError(f"--price: {name} is no GPU known here: {', '.join(sorted(found))}")
        figure = ProfileFigure(value=price, status="given", source="--price")
        found[name] = found[name].model_copy(update={"price_usd_per_hour": figure})
    return found


def checked_gpus(
    gpus: Mapping[str, int], profiles: Mapping[str, GpuProfile], *, option: str = "--gpus"
) -> None:
    unknown = [name for name in gpus if name not in profiles]
    if unknown:
        raise UserError(
            f"{option}: {', '.join(unknown)} is no GPU known here: {', '.join(sorted(profiles))}; "
            "--profile adds one"
        )
    if not gpus and option == "--gpus":
        raise UserError("--gpus names no GPU: T4=2,RTX4090=1")


def status_of(profile: GpuProfile) -> str:
    """`derived`, `measured`, or `derived and measured`."""
    figures = [getattr(profile, name) for name in STEP_FIGURES]
    return " and ".join(sorted({figure.status for figure in figures} - {"given"})) or "given"


def checked_outputs(*, json: Path | None, plot: Path | None = None) -> None:
    """Before the simulation and not after it: there is a place for what it writes."""
    for option, path in (("--json", json), ("--plot", plot)):
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f"{option} {path}: there is no folder {path.parent}")
    if plot is not None and plot.suffix != ".png":
        raise UserError(f"--plot {plot}: the picture is a PNG; call it {plot.with_suffix('.png')}")
    if plot is not None and find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib, which tierserve's extra `load` has")


def load_trace(path: Path, tier: Tier | None, rate: float, console: Console) -> Trace:
    """The trace, with a word on what was assumed about it."""
    if tier is None:
        tier = tier_of_file(path)
        if tier is not None:
            console.print(f"{path.name} names no tiers: taken as {tier}'s (--tier)")
    return read_trace(path, tier=tier, rate=rate)


def make_setup(
    options: argparse.Namespace, gpus: Mapping[str, int], profiles: Mapping[str, GpuProfile]
) -> Setup:
    slo: Slo = options.slo
    return Setup(
        gpus=gpus,
        max_wait_s=options.max_wait_s,
        lend_share=options.lend_share,
        profiles=profiles,
        slos=dict.fromkeys(Tier, slo),
    )


def scaled_setup(options: argparse.Namespace) -> Setup:
    """The cluster of --gpus, as quick to follow its policy as the options say."""
    profiles = profiles_of(options)
    checked_gpus(options.gpus, profiles)
    return replace(
        make_setup(options, options.gpus, profiles),
        cold_start_s=options.cold_start_s,
        downscale_delay_s=options.downscale_delay_s,
    )


def traffic_of(
    options: argparse.Namespace, shares: Mapping[Tier, float], console: Console
) -> ScalableTraffic:
    """The trace, or independent arrivals in these shares."""
    if options.trace is not None:
        trace = load_trace(options.trace, options.tier, 1.0, console)
        return ReplayedTraffic(options.trace.name, trace)
    return Independent(shares, options.input_tokens, options.output_tokens, options.requests)


def bench_of(
    options: argparse.Namespace,
    gpus: Mapping[str, int],
    profiles: Mapping[str, GpuProfile],
    traffic: ScalableTraffic,
) -> Bench:
    setup = make_setup(options, gpus, profiles)
    quick = replace(setup, most_requests=MOST_REQUESTS)
    return Bench(traffic, quick, options.goodput)
