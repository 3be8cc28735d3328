"""The policies on one trace: each as it would be run, or at its best setting in hindsight."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from loadtest.simulation.cell import Cell, cell_of
from loadtest.simulation.clairvoyant import (
    CheapestPlan,
    Planned,
    PlannedCounts,
    interval_s,
    work_of,
)
from loadtest.simulation.constant import BestConstant, ConstantReplicas, Counts
from loadtest.simulation.figures import RunFigures
from loadtest.simulation.opponents import OPPONENTS
from loadtest.simulation.ours import make_ours
from loadtest.simulation.outcome import SimulationOutcome
from loadtest.simulation.run import Bounds, GivenUp, Policy, simulate_cell
from loadtest.simulation.settings_search import (
    Best,
    Setting,
    best_setting,
    equal_to,
    shown_setting,
)
from loadtest.simulation.setup import Setup
from loadtest.simulation.trace import Trace
from serve_app.core.tiers import Tier

# Plans that the search in hindsight may play: each is a whole simulation.
PLAN_TRIES = 60
# Keeps what was played: its policy, its settings, and what plays it.
Play = Callable[[], RunFigures | None]
Keep = Callable[[str, Mapping[str, Any], Play], RunFigures | None]


@dataclass(frozen=True, slots=True)
class Result:
    """`setting` is what was chosen; `tried` counts the settings it was chosen from."""

    outcome: SimulationOutcome
    setting: Mapping[str, Any]
    tried: int = 1


@dataclass(frozen=True, slots=True)
class Judgement:
    """As `Result`, without the run itself."""

    figures: RunFigures
    setting: Mapping[str, Any]
    tried: int = 1


def played(policy: str, setting: Mapping[str, Any], play: Play) -> RunFigures | None:
    """Keeps nothing."""
    return play()


def bounds(best: RunFigures | None, needed: float) -> Bounds | None:
    """Beyond which a run is not better than the best that was found."""
    if best is None:
        return None
    if best.goodput >= needed:
        return Bounds(best.gpu_hours, 1 - needed)
    return Bounds(bad=1 - best.goodput)


@dataclass(slots=True)
class Contest:
    """Plays the policies on one cell. `setup.initial` is what each of them begins with that
    scales; a constant count and a plan begin with their own first counts."""

    cell: Cell
    setup: Setup
    plan_tries: int = PLAN_TRIES
    keep: Keep = played
    _constants: dict[float, tuple[Counts, RunFigures, int]] = field(default_factory=dict)

    def judge(self, name: str, needed: float) -> Judgement:
        """The policy by its name: the cheapest of its settings on this very trace whose goodput is
        at least `needed`, or the one with the best goodput. Ours has the settings of `setup`."""
        if name == "ours":
            return Judgement(self._whole("ours", {}), self.own_setting())
        if name == "constant":
            counts, figures, tried = self._constant(needed)
            return Judgement(figures, _named(counts), tried)
        if name == "clairvoyant":
            return self._clairvoyant(needed)
        best = self._best_setting(name, needed)
        return Judgement(best.found, best.setting, best.tried)

    def outcome(self, name: str, setting: Mapping[str, Any]) -> SimulationOutcome:
        """Run a policy with a setting that `judge` has chosen."""
        setup, policy = self._ready(name, setting)
        return simulate_cell(self.cell, setup, policy)

    def _ready(self, name: str, setting: Mapping[str, Any]) -> tuple[Setup, Policy]:
        if name == "ours":
            return self.setup, make_ours(self.setup, self.cell.weight)
        if name == "constant":
            constant = {Tier(tier): int(count) for tier, count in setting.items()}
            return replace(self.setup, initial=constant), ConstantReplicas(constant)
        if name == "clairvoyant":
            counts = {Tier(t): json.loads(str(numbers)) for t, numbers in setting.items()}
            width_s = interval_s(self.cell.arrivals.duration_s)
            begun = replace(self.setup, initial={tier: own[0] for tier, own in counts.items()})
            return begun, Planned(width_s, counts, self.setup.longest_start_s)
        # Lending is part of our data plane; neither Serve nor the others have it.
        without = replace(self.setup, lend_share=0.0)
        return without, OPPONENTS[name].make(setting, without)

    def _play(
        self, name: str, setting: Mapping[str, Any], within: Bounds | None
    ) -> RunFigures | None:
        """None where the run was given up."""

        def play() -> RunFigures | None:
            setup, policy = self._ready(name, setting)
            try:
                return RunFigures.of(simulate_cell(self.cell, setup, policy, within))
            except GivenUp:
                return None

        return self.keep(name, setting, play)

    def _whole(self, name: str, setting: Mapping[str, Any]) -> RunFigures:
        figures = self._play(name, setting, None)
        assert figures is not None
        return figures

    def own_setting(self) -> Mapping[str, Any]:
        """Of ours, for a reader."""
        setup = self.setup
        return {"downscale_delay_s": setup.downscale_delay_s, "lend_share": setup.lend_share}

    def _best_setting(self, name: str, needed: float) -> Best[RunFigures]:
        opponent = OPPONENTS[name]

        def play(setting: Setting, best: RunFigures | None) -> RunFigures | None:
            return self._play(name, setting, bounds(best, needed))

        return best_setting(opponent.axes, opponent.coarse, play, needed)

    def _constant(self, needed: float) -> tuple[Counts, RunFigures, int]:
        if needed not in self._constants:
            work = {t: float(np.sum(w)) for t, w in work_of(self.cell, self.setup).items()}
            search = BestConstant(
                work,
                self.setup.minimum,
                self.setup.gpu_count,
                needed,
                lambda counts: self._whole("constant", _named(counts)),
            )
            counts, figures = search.search()
            self._constants[needed] = counts, figures, len(search.played)
        return self._constants[needed]

    def _clairvoyant(self, needed: float) -> Judgement:
        constant, _, _ = self._constant(needed)

        def play(counts: PlannedCounts, best: RunFigures | None) -> RunFigures | None:
            return self._play("clairvoyant", _written(counts), bounds(best, needed))

        search = CheapestPlan(
            work_of(self.cell, self.setup),
            self.setup.minimum,
            self.setup.gpu_count,
            needed,
            self.plan_tries,
            play,
        )
        counts, figures = search.search(constant)
        return Judgement(figures, _written(counts), search.tried)


def run_policy(name: str, trace: Trace, setup: Setup, *, goodput: float | None) -> Result:
    """One policy. All but ours are given hindsight: the cheapest of their settings on this very
    trace whose goodput is at least `goodput` (equal to ours, if None), or the one with the best
    goodput."""
    contest = Contest(cell_of(trace, setup), setup)
    if name == "ours":
        return Result(contest.outcome("ours", {}), contest.own_setting())
    needed = goodput
    if needed is None:
        needed = equal_to(contest.judge("ours", 0.0).figures.goodput)
    judgement = contest.judge(name, needed)
    outcome = contest.outcome(name, judgement.setting)
    return Result(outcome, shown_setting(name, judgement.setting, needed), judgement.tried)


def _named(counts: Counts) -> dict[str, int]:
    return {tier.value: count for tier, count in counts.items()}


def _written(counts: PlannedCounts) -> dict[str, str]:
    return {tier.value: json.dumps(list(numbers)) for tier, numbers in counts.items()}
