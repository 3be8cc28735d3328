"""What the scaling policies are played on: recorded and made-up traffic, each with its GPUs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from loadtest.simulation.initial import initial_replicas
from loadtest.simulation.setup import Setup
from loadtest.simulation.synthetic import KINDS
from loadtest.simulation.trace import Trace, merged, read_trace
from serve_app.core.tiers import Tier

TRACES = Path(__file__).resolve().parents[1] / "traces"
AZURE, SERVEGEN = "azure2023_conv_1h.csv.gz", "servegen_r1_peak_hour_2rps.csv.gz"
AIBRIX = "aibrix_8min_up_down.csv.gz"
SMALL = {"T4": 4}


class Case(NamedTuple):
    """`start`: replicas that serve at the beginning, by tier."""

    trace: Trace
    gpus: Mapping[str, int]
    start: Mapping[Tier, int]


@dataclass(frozen=True, slots=True)
class RecordedCase:
    """Files with their tiers, all at this `rate` (times as fast) and `times` the load."""

    parts: tuple[tuple[str, Tier], ...]
    gpus: Mapping[str, int]
    rate: float = 1.0
    times: float = 1.0

    def trace(self) -> Trace:
        parts = [read_trace(TRACES / file, tier=t, rate=self.rate) for file, t in self.parts]
        return replace(merged(parts), times=self.times)


_AZURE, _SERVEGEN = (AZURE, Tier.CHAT), (SERVEGEN, Tier.REASONING)
RECORDED: Mapping[str, RecordedCase] = {
    "azure": RecordedCase((_AZURE,), SMALL),
    "servegen": RecordedCase((_SERVEGEN,), SMALL),
    "servegen-4x-as-fast": RecordedCase((_SERVEGEN,), SMALL, rate=4.0),
    "aibrix": RecordedCase(((AIBRIX, Tier.CHAT),), SMALL),
    "azure+servegen": RecordedCase((_AZURE, _SERVEGEN), SMALL),
    "azure-x4": RecordedCase((_AZURE,), {"T4": 10}, times=4.0),
    "servegen-x12": RecordedCase((_SERVEGEN,), {"T4": 20}, times=12.0),
    "aibrix-x8": RecordedCase(((AIBRIX, Tier.CHAT),), {"T4": 10}, times=8.0),
    "azure+servegen-x4": RecordedCase((_AZURE, _SERVEGEN), {"T4": 8, "RTX4090": 4}, times=4.0),
}
NAMES = (*RECORDED, *KINDS)


def case(name: str) -> Case:
    """One of `NAMES`. Equal names give equal requests."""
    if name in RECORDED:
        recording = RECORDED[name]
        return with_start(recording.trace(), recording.gpus)
    make, gpus = KINDS[name]
    return with_start(make(), gpus)


def with_start(trace: Trace, gpus: Mapping[str, int]) -> Case:
    """Begun with what its first two minutes need."""
    return Case(trace, gpus, initial_replicas(trace, Setup(gpus=gpus)))
