"""A GPU's profile at either end of its figures' uncertainty."""

from collections.abc import Mapping
from enum import StrEnum

from loadtest.simulation.profile import GpuProfile, ProfileFigure, StepTimeCurve

# What takes time: more of it is worse. Of `kv_tokens` less is worse; settings and prices are known.
TIMES = (
    "base_ms",
    "per_sequence_ms",
    "per_prompt_token_ms",
    "per_context_ktoken_ms",
    "per_prompt_mpair_ms",
    "per_prompt_ms",
    "overhead_ms",
)


class UncertaintySide(StrEnum):
    PESSIMISTIC = "pessimistic"
    OPTIMISTIC = "optimistic"


def profile_at(profile: GpuProfile, side: UncertaintySide) -> GpuProfile:
    """The profile with all its figures at the end of their uncertainty that is worse, or better.

    That all err in the same direction is the widest range there is; where errors are independent
    the truth lies nearer to the middle.
    """
    worse = side is UncertaintySide.PESSIMISTIC
    changed: dict[str, object] = {"kv_tokens": _whole(_moved(profile.kv_tokens, up=not worse))}
    for name in TIMES:
        figure: ProfileFigure | None = getattr(profile, name)
        if figure is not None:
            changed[name] = _moved(figure, up=worse)
    if profile.by_sequences is not None:
        changed["by_sequences"] = _moved_curve(profile.by_sequences, up=worse)
    changed["start_s"] = {name: _moved(one, up=worse) for name, one in profile.start_s.items()}
    return profile.model_copy(update=changed)


def profiles_at(
    profiles: Mapping[str, GpuProfile], side: UncertaintySide
) -> Mapping[str, GpuProfile]:
    return {name: profile_at(profile, side) for name, profile in profiles.items()}


def uncertainties(profile: GpuProfile) -> Mapping[str, float]:
    """Of each figure that has one, as a share of it; the largest first."""
    names = (*TIMES, "by_sequences", "kv_tokens")
    figures: dict[str, ProfileFigure | StepTimeCurve | None] = {
        name: getattr(profile, name) for name in names
    }
    found = {name: figure.share for name, figure in figures.items() if figure is not None}
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return {name: share for name, share in ordered if share}


def _moved(figure: ProfileFigure, *, up: bool) -> ProfileFigure:
    times = figure.highest if up else figure.lowest
    return figure.model_copy(update={"value": figure.value * times})


def _moved_curve(curve: StepTimeCurve, *, up: bool) -> StepTimeCurve:
    times = curve.highest if up else curve.lowest
    return curve.model_copy(
        update={"step_ms": {n: step_ms * times for n, step_ms in curve.step_ms.items()}}
    )


def _whole(figure: ProfileFigure) -> ProfileFigure:
    return figure.model_copy(update={"value": float(max(1, int(figure.value)))})
