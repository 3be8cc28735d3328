"""The figures of a cell, by the same words from the replay and from the simulation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.client.record import Outcome as Ending
from loadtest.client.record import Record
from loadtest.load.summary import is_good
from loadtest.report.results_file import META
from loadtest.report.statistics import quantile
from loadtest.scenario import Slo
from loadtest.simulation.outcome import SimulationOutcome
from serve_app.core.tiers import Tier

# What the issue asks for: the fraction by which GPU-hours and goodput may differ.
WITHIN = 0.10


@dataclass(frozen=True, slots=True)
class TierFigures:
    """`goodput` is the fraction of all requests that met the SLO; times are of those served.
    `errors` are ends that are no refusal."""

    requests: int
    goodput: float
    refused: int
    errors: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    tpot_p95_s: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """`gpu_hours` until the last arrival, from each replica's order to the end of its drain."""

    gpu_hours: float
    scale_actions: int
    tiers: Mapping[Tier, TierFigures]

    @property
    def requests(self) -> int:
        return sum(tier.requests for tier in self.tiers.values())

    @property
    def goodput(self) -> float:
        good = sum(tier.goodput * tier.requests for tier in self.tiers.values())
        return good / max(1, self.requests)

    @property
    def refused(self) -> int:
        return sum(tier.refused for tier in self.tiers.values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "goodput": round(self.goodput, 5),
            "refused": self.refused,
            "gpu_hours": round(self.gpu_hours, 5),
            "scale_actions": self.scale_actions,
            "tiers": {tier.value: asdict(figures) for tier, figures in self.tiers.items()},
        }


def replayed(records: Sequence[Record], slo: Slo, *, gpu_s: float, actions: int) -> Figures:
    """Of a replay: what its client saw, and what Serve kept for it."""
    by_tier: dict[Tier, list[Record]] = {}
    for record in records:
        by_tier.setdefault(Tier(record.tier), []).append(record)
    tiers = {tier: _tier(own, slo) for tier, own in sorted(by_tier.items())}
    return Figures(gpu_s / 3600, actions, tiers)


def simulated(outcome: SimulationOutcome) -> Figures:
    """Of the same cell in the simulation, where nothing but the gate ends a request early."""
    tiers = {
        tier: TierFigures(
            requests=of.requests,
            goodput=of.goodput_share,
            refused=of.refused_total,
            errors=0,
            ttft_p50_s=of.ttft_s.p50,
            ttft_p95_s=of.ttft_s.p95,
            tpot_p95_s=of.tpot_s.p95,
        )
        for tier, of in sorted(outcome.tiers.items())
    }
    return Figures(outcome.gpu_hours, outcome.scale_actions, tiers)


def differences(real: Figures, simulation: Figures) -> dict[str, Any]:
    """By which part the replay's figures are above the simulation's."""
    gpu_hours = real.gpu_hours / simulation.gpu_hours - 1
    goodput = real.goodput / simulation.goodput - 1 if simulation.goodput else float("inf")
    return {
        "gpu_hours": round(gpu_hours, 4),
        "goodput": round(goodput, 4),
        "within": max(abs(gpu_hours), abs(goodput)) <= WITHIN,
    }


def _tier(records: Sequence[Record], slo: Slo) -> TierFigures:
    endings = Counter(record.outcome for record in records)
    served = [record for record in records if record.served]
    tpot_s = [record.tpot_s for record in served if record.tpot_s is not None]
    ttft_s = [record.ttft_s for record in served if record.ttft_s is not None]
    return TierFigures(
        requests=len(records),
        goodput=sum(is_good(record, slo) for record in records) / len(records),
        refused=endings[Ending.REFUSED],
        errors=len(records) - endings[Ending.SERVED] - endings[Ending.REFUSED],
        ttft_p50_s=_percentile(ttft_s, 50),
        ttft_p95_s=_percentile(ttft_s, 95),
        tpot_p95_s=_percentile(tpot_s, 95),
    )


def _percentile(values: Sequence[float], percent: float) -> float | None:
    found = quantile(values, percent)
    return None if found is None else round(found, 4)


HEADER = (
    "| cell | law | | GPU-hours | goodput | TTFT p95 | TPOT p95 | refused | scale actions |",
    "|---|---|---|---:|---:|---:|---:|---:|---:|",
)


def table(results: Mapping[str, Any]) -> str:
    """Two rows for each cell of the results file, its difference, and a caption."""
    lines: list[str] = []
    for name, cell in results.items():
        if name == META:
            continue
        for side in ("replayed", "simulated"):
            lines.append(_row(name, cell, side))
        off = cell["difference"]
        lines.append(
            f"| | | difference | {off['gpu_hours']:+.1%} | {off['goodput']:+.1%} | | | | |"
        )
    return "\n".join([*HEADER, *lines, "", _caption(results)])


def _row(name: str, cell: Mapping[str, Any], side: str) -> str:
    figures = cell[side]
    ttft = _by_tier(figures, "ttft_p95_s", "{:.2f} s", 1.0)
    tpot = _by_tier(figures, "tpot_p95_s", "{:.0f} ms", 1e3)
    return (
        f"| {_name(name, cell)} | {cell['law']} | {side} | {figures['gpu_hours']:.3f} "
        f"| {figures['goodput']:.1%} | {ttft} | {tpot} | {figures['refused']} "
        f"| {figures['scale_actions']} |"
    )


def _name(name: str, cell: Mapping[str, Any]) -> str:
    slow = "" if cell["slow"] == 1 else f", GPUs {cell['slow']:g} times as slow"
    return f"{name}, {cell['minutes']:g} min{slow}"


def _by_tier(figures: Mapping[str, Any], name: str, form: str, factor: float) -> str:
    values = [tier[name] for tier in figures["tiers"].values()]
    return ", ".join("none" if value is None else form.format(value * factor) for value in values)


def _caption(results: Mapping[str, Any]) -> str:
    meta = results[META]
    cells = [cell for name, cell in results.items() if name != META]
    dates = ", ".join(sorted({cell["date"] for cell in cells}))
    commits = ", ".join(sorted({cell["commit"] for cell in cells}))
    return (
        "In real time, at the step times of the GPUs' profiles; of two tiers chat's times come "
        f"first. {meta['machine']['cpu']}, {meta['machine']['cores']} cores. Last: "
        f"`{meta['command']}`; {dates}, commit {commits}."
    )
