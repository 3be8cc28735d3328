"""The scoreboard: every policy on every case, at equal goodput, and what follows from it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from loadtest.simulation.figures import RunFigures
from loadtest.simulation.settings_search import equal_to, shown_setting

OURS, RAY, CONSTANT, PLAN = "ours", "ray-default", "constant", "clairvoyant"
# Above so many GPUs of the best constant count, a case is one of those that the aim is stated for.
LARGE_GPUS = 2


class _ScoreboardModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicyRow(_ScoreboardModel):
    """A policy on a case. `against_ours`: its GPU-hours less ours, as a part of ours."""

    figures: RunFigures
    setting: Mapping[str, Any]
    settings_tried: int
    against_ours: float | None = Field(
        description="At equal goodput; a policy that does not reach ours is compared by GPU-hours "
        "for each good request. null where ours or the other had no good request."
    )
    equal_goodput: bool = Field(description="It has the goodput of ours, but for a thousandth.")


class CaseRows(_ScoreboardModel):
    gpus: Mapping[str, int]
    initial: Mapping[str, int]
    requests: int
    duration_s: float
    rows: Mapping[str, PolicyRow]


class Comparison(_ScoreboardModel):
    """Ours against a policy over several cases: GPU-hours of ours divided by those of the
    policy."""

    cases: int
    mean: float = Field(description="Geometric.")
    worst: float
    worst_case: str


class Summary(_ScoreboardModel):
    """null where there is nothing to compare."""

    ray_large: Comparison | None = Field(description="Where more than two GPUs are needed.")
    ray: Comparison | None
    constant: Comparison | None
    plan: Comparison | None
    scale_actions: Mapping[str, int] = Field(description="Of each policy, all cases together.")


@dataclass(frozen=True, slots=True)
class Played:
    """A policy's best on a case; its goodput was to be at least `needed`."""

    policy: str
    figures: RunFigures
    setting: Mapping[str, Any]
    tried: int
    needed: float


def row(played: Played, ours: RunFigures) -> PolicyRow:
    figures = played.figures
    equal = figures.goodput >= equal_to(ours.goodput)
    return PolicyRow(
        figures=figures,
        setting=shown_setting(played.policy, played.setting, played.needed),
        settings_tried=played.tried,
        against_ours=None if played.policy == OURS else _against(figures, ours, equal=equal),
        equal_goodput=equal,
    )


def row_of_file(found: PolicyRow, ours: RunFigures) -> PolicyRow:
    """Another policy's row that was played before, against ours of now."""
    equal = found.figures.goodput >= equal_to(ours.goodput)
    against = _against(found.figures, ours, equal=equal)
    return found.model_copy(update={"against_ours": against, "equal_goodput": equal})


def _against(theirs: RunFigures, ours: RunFigures, *, equal: bool) -> float | None:
    if equal:
        return theirs.gpu_hours / ours.gpu_hours - 1
    if not theirs.goodput or not ours.goodput:
        return None
    return (theirs.gpu_hours / theirs.goodput) / (ours.gpu_hours / ours.goodput) - 1


def summary(cases: Mapping[str, CaseRows]) -> Summary:
    large = {name: case for name, case in cases.items() if needs_many(case)}
    actions: dict[str, int] = {}
    for case in cases.values():
        for policy, found in case.rows.items():
            actions[policy] = actions.get(policy, 0) + found.figures.scale_actions
    return Summary(
        ray_large=_comparison(large, RAY),
        ray=_comparison(cases, RAY),
        constant=_comparison(cases, CONSTANT),
        plan=_comparison(cases, PLAN),
        scale_actions=actions,
    )


def needs_many(case: CaseRows) -> bool:
    """The best constant count is more than two GPUs."""
    constant = case.rows.get(CONSTANT)
    return constant is not None and sum(constant.setting.values()) > LARGE_GPUS


def _comparison(cases: Mapping[str, CaseRows], policy: str) -> Comparison | None:
    ratios = dict(_ratios(cases.items(), policy))
    if not ratios:
        return None
    worst = max(ratios, key=lambda name: ratios[name])
    mean = math.exp(math.fsum(map(math.log, ratios.values())) / len(ratios))
    return Comparison(cases=len(ratios), mean=mean, worst=ratios[worst], worst_case=worst)


def _ratios(cases: Iterable[tuple[str, CaseRows]], policy: str) -> Iterable[tuple[str, float]]:
    for name, case in cases:
        found = case.rows.get(policy)
        if found is not None and found.against_ours is not None:
            ratio = 1 / (1 + found.against_ours)
            # What ours did is a plan, too: the best one is not dearer, whatever the search found.
            yield name, max(1.0, ratio) if policy == PLAN else ratio


HEADER = (
    "| case | policy | goodput | GPU-hours | cost | actions | TTFT p95 | against ours | setting |",
    "|---|---|---:|---:|---:|---:|---:|---:|---|",
)


def table(cases: Mapping[str, CaseRows]) -> str:
    """Of all cases, in Markdown."""
    lines = [
        _line(name, policy, found)
        for name, case in cases.items()
        for policy, found in case.rows.items()
    ]
    return "\n".join([*HEADER, *lines])


def _line(case: str, policy: str, found: PolicyRow) -> str:
    figures = found.figures
    cost = "" if figures.cost_usd is None else f"${figures.cost_usd:.2f}"
    if policy == OURS:
        against = ""
    elif found.against_ours is None:
        against = "no good request"
    else:
        against = f"{found.against_ours:+.0%}{'' if found.equal_goodput else ' *'}"
    setting = ", ".join(f"{key} {_short(value)}" for key, value in found.setting.items())
    return (
        f"| {case} | {policy} | {figures.goodput:.2%} | {figures.gpu_hours:.2f} | {cost} "
        f"| {figures.scale_actions} | {_seconds(figures)} | {against} | {setting} |"
    )


def _seconds(figures: RunFigures) -> str:
    """The worst tier's."""
    known = [value for value in figures.ttft_p95_s.values() if value is not None]
    return f"{max(known):.2f} s" if known else "none"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def sentences(found: Summary) -> Sequence[str]:
    """The summary for a reader, a line each."""
    lines = [
        _sentence("Ray's policy at its best setting, more than two GPUs needed", found.ray_large),
        _sentence("Ray's policy at its best setting, all cases", found.ray),
        _sentence("the best constant count", found.constant),
        _sentence("the best plan found in hindsight", found.plan),
    ]
    actions = ", ".join(f"{policy} {count}" for policy, count in found.scale_actions.items())
    return [*(line for line in lines if line), f"Scale actions, all cases: {actions}."]


def _sentence(against: str, found: Comparison | None) -> str:
    if found is None:
        return ""
    return (
        f"Against {against} ({found.cases} cases): GPU-hours of ours {found.mean - 1:+.1%} in the "
        f"geometric mean, at worst {found.worst - 1:+.1%} ({found.worst_case})."
    )
