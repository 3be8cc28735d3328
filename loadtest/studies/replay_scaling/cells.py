"""What is replayed: a cut of a trace, the cluster that it is played on, the policy that scales it.

A cell is small enough for a real Ray cluster on two cores: at most four GPUs that only Ray believes
in, some ten requests a second.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from loadtest.report.results_file import REPOSITORY
from loadtest.simulation.arrivals import TIERS, arrivals_of
from loadtest.simulation.profile import GpuProfile
from loadtest.simulation.profile import ProfileFigure as Figure
from loadtest.simulation.synthetic import Floats, Lengths, synthetic
from loadtest.simulation.synthetic import SyntheticLoad as Load
from loadtest.simulation.trace import Request, Trace, merged, read_trace
from serve_app.core.tiers import Tier

TRACES = REPOSITORY / "loadtest" / "traces"
AZURE, SERVEGEN = "azure2023_conv_1h.csv.gz", "servegen_r1_peak_hour_2rps.csv.gz"
SEED = 21
# So long the first replicas have been ready, with nothing to do, when the first request comes:
# HAProxy learns of them and the client's process starts. A replica's rates count from its start.
IDLE_S = 10.0
# What of a profile is a time that a slower GPU would take longer for.
STEP_TIMES = ("base_ms", "per_sequence_ms", "per_prompt_token_ms", "per_context_ktoken_ms")

PolicyName = Literal["ours", "ray-default"]


@dataclass(frozen=True, slots=True)
class RaySetting:
    """Of Ray Serve's default policy, which counts ongoing requests."""

    target_ongoing_requests: float
    downscale_delay_s: float
    look_back_period_s: float


@dataclass(frozen=True, slots=True)
class ReplayCell:
    """`trace` makes so many seconds of it at so many times its load. `initial` replicas serve when
    it begins; `ray` is None where our policy decides."""

    name: str
    gpus: Mapping[str, int]
    trace: Callable[[float, float], Trace]
    initial: Mapping[Tier, int]
    ray: RaySetting | None = None
    words: str = field(default="", kw_only=True)

    @property
    def policy(self) -> PolicyName:
        return "ours" if self.ray is None else "ray-default"


def cut(trace: Trace, *, start_s: float, length_s: float, times: float) -> Trace:
    """So many seconds of the trace from `start_s` on, at so many times its load: copies of the part
    on top of each other, each shifted in time, as `loadtest.simulation.arrivals` lays them."""
    end_s = start_s + length_s
    part = [
        replace(request, arrival_s=request.arrival_s - start_s)
        for request in trace.requests
        if start_s <= request.arrival_s < end_s
    ]
    rows = arrivals_of(Trace(tuple(part), times=times), seed=SEED)
    columns = (rows.tier, rows.arrival_s, rows.prompt_tokens, rows.new_tokens, rows.limit)
    return Trace(
        tuple(
            Request(TIERS[tier], *row)
            for tier, *row in zip(*(column.tolist() for column in columns), strict=True)
        )
    )


def azure(length_s: float, load: float) -> Trace:
    """Chat of a production service, at twice its load."""
    whole = read_trace(TRACES / AZURE, tier=Tier.CHAT)
    return cut(whole, start_s=600.0, length_s=length_s, times=2.0 * load)


def step(length_s: float, load: float) -> Trace:
    """Chat of 5 requests a second, for two fifths of the time of 22, and then of 5 again."""

    def rate(at_s: Floats) -> Floats:
        high = (at_s >= 0.2 * length_s) & (at_s < 0.6 * length_s)
        return load * np.where(high, 22.0, 5.0)

    chat = Load(Tier.CHAT, rate, 22.0 * load, Lengths(500, 0.8), Lengths(200, 0.6))
    return synthetic((chat,), length_s, SEED)


def prompt_heavy(length_s: float, load: float) -> Trace:
    """Prompts of 2,000 tokens and answers of 15: 3 a second, and 12 in bursts of ten seconds."""
    begins = np.cumsum(np.random.default_rng(SEED).uniform(50.0, 110.0, 1 + int(length_s / 50)))

    def rate(at_s: Floats) -> Floats:
        since_s = at_s - begins[np.searchsorted(begins, at_s, side="right") - 1]
        return load * np.where((since_s >= 0) & (since_s < 10.0), 12.0, 3.0)

    chat = Load(Tier.CHAT, rate, 12.0 * load, Lengths(2000, 0.2), Lengths(15, 0.4))
    return synthetic((chat,), length_s, SEED)


def two_tiers(length_s: float, load: float) -> Trace:
    """The recorded chat and a recorded reasoning service, side by side."""
    chat = read_trace(TRACES / AZURE, tier=Tier.CHAT)
    reasoning = read_trace(TRACES / SERVEGEN, tier=Tier.REASONING)
    return merged(
        [
            cut(chat, start_s=600.0, length_s=length_s, times=1.5 * load),
            cut(reasoning, start_s=600.0, length_s=length_s, times=1.5 * load),
        ]
    )


_STEP = ReplayCell(
    "step",
    {"T4": 4},
    step,
    {Tier.CHAT: 1},
    words="5 requests a second, then 22, then 5 again, on 4 T4",
)
CELLS: Mapping[str, ReplayCell] = {
    cell.name: cell
    for cell in (
        ReplayCell(
            "azure",
            {"T4": 4},
            azure,
            {Tier.CHAT: 2},
            words="azure2023_conv_1h at twice its load, on 4 T4",
        ),
        ReplayCell(
            "prompt-heavy",
            {"T4": 4},
            prompt_heavy,
            {Tier.CHAT: 2},
            words="prompts of 2,000 tokens in bursts of 10 s, on 4 T4",
        ),
        ReplayCell(
            "two-tiers",
            {"T4": 4},
            two_tiers,
            {Tier.CHAT: 1, Tier.REASONING: 1},
            words="azure2023_conv_1h as chat beside servegen_r1 as reasoning, 1.5 times each, on "
            "4 T4",
        ),
        _STEP,
        replace(
            _STEP,
            name="step-ray",
            ray=RaySetting(24, 120.0, 2.0),
            words="the step with Ray Serve's default policy",
        ),
    )
}


def slowed(profile: GpuProfile, factor: float) -> GpuProfile:
    """A GPU that takes so many times as long for each step: fewer requests keep it busy."""
    if factor == 1:
        return profile
    return profile.model_copy(
        update={name: _times(getattr(profile, name), factor) for name in STEP_TIMES}
    )


def _times(figure: Figure, factor: float) -> Figure:
    source = f"{figure.source}; {factor:g} times as long"
    return figure.model_copy(update={"value": figure.value * factor, "source": source})
