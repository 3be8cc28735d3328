"""What `simulate`, `capacity` and `plan` write with `--json`. docs/simulation.md shows examples.

Times are seconds; rates are requests a second; money is US dollars.
"""

import datetime
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from loadtest.scenario import Slo
from loadtest.simulation.inputs import status_of
from loadtest.simulation.outcome import Change, Moment, Percentiles, SimulationOutcome, TierOutcome
from loadtest.simulation.profile_range import uncertainties
from loadtest.simulation.setup import Setup
from serve_app.core.tiers import Tier


class _AnswerModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulatedTierFigures(_AnswerModel):
    """What became of a tier's requests. A time is null where none was served."""

    requests: int
    attainment: float = Field(description="Share whose prefill began within the longest wait.")
    served: int
    refused: Mapping[str, int] = Field(description="By reason, as the gate gives it.")
    retried: int
    lent: int = Field(description="Ran on a replica of the other tier.")
    relayed: int = Field(description="Ran on another replica than the one that it came to.")
    preempted: int
    ttft_s: Percentiles
    tpot_s: Percentiles
    e2e_s: Percentiles
    queue_wait_s: Percentiles
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    goodput: float = Field(description="Share that met every limit of the SLO; refused: missed.")
    goodput_per_s: float


class GpuFigures(_AnswerModel):
    """One GPU type. `profile`: how its figures are known."""

    gpu_hours: float
    cost_usd: float | None = Field(description="null where its price is not known.")
    price_usd_per_hour: float | None
    price_source: str | None
    profile: str


class Asked(_AnswerModel):
    """What every answer depends on. `uncertainty`: by GPU and figure, as a share of it."""

    slo: Mapping[str, float] = Field(description="Limits in seconds, by name.")
    max_wait_s: float
    profiles: Mapping[str, str] = Field(description="Each GPU's figures: derived, measured, both.")
    uncertainty: Mapping[str, Mapping[str, float]] = Field(default_factory=dict)
    command: str
    date: str
    commit: str


class SimulateAnswer(_AnswerModel):
    """One policy on one trace."""

    policy: str
    attainment: float = Field(description="Share whose prefill began within the longest wait.")
    goodput: float = Field(description="Share of all arrivals that met their tier's SLO.")
    gpu_hours: float
    scale_actions: int
    attainment_by_tier: Mapping[Tier, float]
    requests: int
    refused: int
    lent: int
    setting: Mapping[str, float | str]
    settings_tried: int
    trace: str
    rate: float
    load: float
    day: bool
    cell: float = Field(description="Each simulated GPU stands for so many.")
    retries: int
    seed: int
    initial: Mapping[Tier, int] = Field(description="Replicas that served at the beginning.")
    duration_s: float
    clipped: int
    gpus: Mapping[str, int]
    max_wait_s: float
    cold_start_s: float = Field(description="The longest of the GPUs' starts.")
    hardware: Mapping[str, str]
    date: str
    changes: Sequence[Change]
    tiers: Mapping[Tier, SimulatedTierFigures]
    cards: Mapping[str, GpuFigures]
    cost_usd: float | None = Field(description="null where a GPU's price is not known.")
    utilisation: float = Field(description="Part of the allocated time in which a step ran.")
    simulated_requests: int
    timeline: Sequence[Moment] = Field(description="Replicas by tier and GPU, queue, refusals.")
    asked: Asked


class SustainedLoadFigures(_AnswerModel):
    """The maximum load at which each tier's requests keep the SLO often enough."""

    gpus: Mapping[str, int]
    tiers: Mapping[Tier, int] = Field(description="GPUs that serve each tier.")
    load_per_s: float = Field(
        description="The lowest of the repetitions: sustained in each of them."
    )
    highest_per_s: float = Field(description="The highest of the repetitions.")
    pessimistic_per_s: float | None = Field(
        default=None,
        description="What would be sustained with every figure of the profiles at the worse end of "
        "its uncertainty. null: not asked for (--nominal).",
    )
    optimistic_per_s: float | None = Field(
        default=None, description="With every figure at the better end. null: not asked for."
    )
    by_tier: Mapping[Tier, float] = Field(description="`load_per_s`, divided among the tiers.")
    at_it: Mapping[Tier, SimulatedTierFigures] = Field(
        description="In the repetition that sustained least."
    )
    beyond: str = Field(description="What the first load that is not sustained misses.")
    simulations: int


class CapacityAnswer(_AnswerModel):
    """What one GPU of each type sustains in each tier, and what the whole set sustains."""

    cards: Sequence[SustainedLoadFigures]
    whole: SustainedLoadFigures | None = Field(
        description="null where a tier of the mix would have no GPU."
    )
    interrupted: bool = Field(description="Rows are missing: it was stopped before its end.")
    goodput: float
    repetitions: int
    traffic: str
    asked: Asked


class PlannedSet(_AnswerModel):
    gpus: Mapping[str, int]
    tiers: Mapping[Tier, int] = Field(description="GPUs that serve each tier.")
    usd_per_hour: float
    usd_per_day: float
    usd_per_million_output_tokens: float
    figures: Mapping[Tier, SimulatedTierFigures] = Field(
        description="At the load, in the repetition that went worst."
    )


class PlannedAt(_AnswerModel):
    """What is needed with every figure of the profiles at one end of its uncertainty."""

    cheapest_holds: bool = Field(
        description="The cheapest set of the answer sustains the load then."
    )
    cheapest: PlannedSet | None = Field(description="That sustains it then; null: none was found.")


class Autoscaled(_AnswerModel):
    """The same GPUs with the server's own scaling policy, on the same trace."""

    gpu_hours: float
    gpu_hours_static: float
    usd_per_day: float
    saved: float = Field(description="Share of the static set's cost.")
    goodput: Mapping[Tier, float]


class PlanAnswer(_AnswerModel):
    """The cheapest sets of GPUs that sustain a load."""

    sets: Sequence[PlannedSet] = Field(description="The cheapest first.")
    pessimistic: PlannedAt | None = Field(
        default=None, description="At the worse end. null: not asked for, or not reached."
    )
    optimistic: PlannedAt | None = Field(
        default=None, description="At the better end. null: not asked for, or not reached."
    )
    proven: bool = Field(description="No cheaper set is left that might sustain the load.")
    sets_simulated: int
    load_per_s: Mapping[Tier, float] = Field(description="That the sets sustain.")
    day: bool = Field(description="It is that of the busiest hour of a day.")
    prices: Mapping[str, float]
    price_sources: Mapping[str, str]
    autoscaled: Autoscaled | None = Field(description="null for a constant load.")
    interrupted: bool = Field(description="The search was stopped before its end.")
    goodput: float
    repetitions: int
    traffic: str
    asked: Asked


def write(path: Path, answer: BaseModel) -> None:
    path.write_text(answer.model_dump_json(indent=2) + "\n", encoding="utf-8")


def asked(argv: Sequence[str], setup: Setup, slo: Slo) -> Asked:
    from loadtest.report.results_file import commit

    return Asked(
        slo={name: limit for name, limit in slo if limit is not None},
        max_wait_s=setup.max_wait_s,
        profiles={name: status_of(setup.profiles[name]) for name in setup.gpus},
        uncertainty={name: uncertainties(setup.profiles[name]) for name in setup.gpus},
        command=shlex.join(["python", "-m", "loadtest", *argv]),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        commit=commit(),
    )


def tier_figures(outcome: SimulationOutcome) -> Mapping[Tier, SimulatedTierFigures]:
    shared = SimulatedTierFigures.model_fields.keys() & TierOutcome.__slots__
    return {
        tier: SimulatedTierFigures(
            **{name: getattr(found, name) for name in shared},
            attainment=found.attainment,
            output_tokens_per_s=found.output_tokens / outcome.duration_s,
            goodput=found.goodput_share,
            goodput_per_s=found.goodput_rps,
        )
        for tier, found in outcome.tiers.items()
    }
