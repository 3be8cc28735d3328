"""What is counted while a fleet is simulated, and the figures of it."""

from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loadtest.scenario import Slo
from loadtest.simulation.outcome import Percentiles, TierOutcome
from loadtest.simulation.sim_request import SimRequest
from serve_app.core.tiers import Tier

UNKNOWN = Percentiles()


def _floats() -> "array[float]":
    return array("d")


@dataclass(slots=True)
class _Served:
    """Columns with a row for each served request."""

    ttft_s: "array[float]" = field(default_factory=_floats)
    e2e_s: "array[float]" = field(default_factory=_floats)
    wait_s: "array[float]" = field(default_factory=_floats)
    new_tokens: "array[float]" = field(default_factory=_floats)
    prompt_tokens: int = 0
    started_in_time: int = 0
    lent: int = 0
    forwarded: int = 0

    def times_s(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """TTFT, E2E and TPOT. While they are held no row can be added."""
        ttft_s, e2e_s, tokens = map(np.asarray, (self.ttft_s, self.e2e_s, self.new_tokens))
        return ttft_s, e2e_s, (e2e_s - ttft_s) / np.maximum(tokens - 1, 1)


@dataclass(slots=True)
class Recorder:
    """`busy_s` are the seconds of full replicas that the served requests took, by GPU."""

    max_wait_s: float
    arrived: Counter[Tier] = field(default_factory=Counter[Tier])
    refusals: dict[Tier, Counter[str]] = field(default_factory=dict)
    ended_s: float = 0.0
    retries: Counter[Tier] = field(default_factory=Counter[Tier])
    busy_s: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    _served: dict[Tier, _Served] = field(default_factory=dict)

    def served(self, request: SimRequest, now_s: float) -> None:
        """Its last token has been made. Times are the client's, from when it first asked."""
        runner, first_s, started_s = request.runner, request.first_token_s, request.started_s
        assert runner is not None
        assert first_s is not None
        assert started_s is not None
        rows = self._served.get(request.tier)
        if rows is None:
            rows = self._served[request.tier] = _Served()
        arrival_s = request.arrival_s
        overhead_s = runner.overhead_s
        wait_s = started_s - arrival_s
        self.ended_s = now_s
        rows.ttft_s.append(first_s - arrival_s + overhead_s)
        rows.e2e_s.append(now_s - arrival_s + overhead_s)
        rows.wait_s.append(wait_s)
        rows.new_tokens.append(request.new_tokens)
        rows.prompt_tokens += request.prompt_tokens
        rows.started_in_time += wait_s <= self.max_wait_s
        rows.lent += request.borrowed
        rows.forwarded += request.forwarded
        self.busy_s[runner.gpu_type] += runner.size * runner.engine.work_s(
            request.prompt_tokens, request.new_tokens, runner.gate.limits.slots
        )

    def refused(self, request: SimRequest, reason: str) -> None:
        """For good."""
        self.refusals.setdefault(request.tier, Counter())[reason] += 1

    def retried(self, request: SimRequest) -> None:
        self.retries[request.tier] += 1

    def refused_of(self, tier: Tier) -> int:
        return sum(self.refusals.get(tier, {}).values())

    def bad_of(self, tier: Tier, slo: Slo) -> int:
        """Of the tier's requests that have ended, those that did not meet the SLO."""
        rows = self._served.get(tier)
        if rows is None:
            return self.refused_of(tier)
        good = np.count_nonzero(_good(slo, *rows.times_s()))
        return self.refused_of(tier) + len(rows.ttft_s) - int(good)

    def outcome(
        self, tier: Tier, slo: Slo, *, weight: float, duration_s: float, preempted: int
    ) -> TierOutcome:
        """The tier's figures; counts times `weight`."""

        def whole(count: float) -> int:
            return round(count * weight)

        rows = self._served.get(tier, _Served())
        tokens = np.asarray(rows.new_tokens)
        ttft_s, e2e_s, tpot_s = rows.times_s()
        good = int(np.count_nonzero(_good(slo, ttft_s, e2e_s, tpot_s)))
        return TierOutcome(
            requests=whole(self.arrived[tier]),
            started_in_time=whole(rows.started_in_time),
            served=whole(len(ttft_s)),
            refused={reason: whole(count) for reason, count in self.refusals.get(tier, {}).items()},
            retried=whole(self.retries[tier]),
            lent=whole(rows.lent),
            relayed=whole(rows.forwarded),
            preempted=whole(preempted),
            ttft_s=percentiles(ttft_s),
            e2e_s=percentiles(e2e_s),
            tpot_s=percentiles(tpot_s[tokens > 1]),
            queue_wait_s=percentiles(np.asarray(rows.wait_s)),
            prompt_tokens=whole(rows.prompt_tokens),
            output_tokens=whole(float(tokens.sum())),
            slo=slo,
            good=whole(good),
            goodput_rps=good * weight / max(duration_s, 1e-9),
        )


def percentiles(values: NDArray[np.float64]) -> Percentiles:
    if not len(values):
        return UNKNOWN
    p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
    return Percentiles(p50, p95, p99, float(values.mean()))


def _good(
    slo: Slo,
    ttft_s: NDArray[np.float64],
    e2e_s: NDArray[np.float64],
    tpot_s: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """As `loadtest/load/slo.py`; a simulated answer has no reasoning, so TTFO is TTFT."""
    measured = ((slo.ttft, ttft_s), (slo.ttfo, ttft_s), (slo.e2e, e2e_s), (slo.tpot, tpot_s))
    good = np.ones(len(ttft_s), bool)
    for limit_s, values in measured:
        if limit_s is not None:
            good &= values <= limit_s
    return good
