"""Most of a minute of a replay on real Ray, and the simulation of the same: they agree."""

import pytest

from loadtest.scenario import Slo
from loadtest.simulation.profile import known_profiles
from loadtest.simulation.synthetic import Lengths, synthetic
from loadtest.simulation.synthetic import SyntheticLoad as Load
from loadtest.simulation.trace import Trace
from loadtest.studies.replay_scaling.cells import ReplayCell
from loadtest.studies.replay_scaling.cluster import application
from loadtest.studies.replay_scaling.replay import replay_on
from loadtest.studies.replay_scaling.results import differences, simulated
from serve_app.core.tiers import Tier
from tests.e2e.cluster.mixed import deploy
from tests.e2e.figures import keep_figures
from tests.e2e.site import Site

pytestmark = pytest.mark.filterwarnings(
    # Ray 2.60 itself gives pydantic this keyword when its config is imported.
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)
LENGTH_S, RATE_RPS, STREAM_INTERVAL = 45.0, 6.0, 16
SLO = Slo(ttft=2.0, tpot=0.1)


def steady(length_s: float, load: float) -> Trace:
    chat = Load(
        Tier.CHAT,
        lambda at_s: RATE_RPS * load + 0 * at_s,
        RATE_RPS * load,
        Lengths(500, 0.5),
        Lengths(150, 0.5),
    )
    return synthetic((chat,), length_s)


CELL = ReplayCell("steady", {"RTX4090": 2}, steady, {Tier.CHAT: 2})


def test_a_replay_comes_to_what_the_simulation_says(site: Site) -> None:
    from loadtest.studies.replay_scaling.simulated import simulate_replay

    trace = CELL.trace(LENGTH_S, 1.0)
    gpu = known_profiles()["RTX4090"]
    # Nothing starts in so short a time, and the first replicas need not be waited for.
    start_s = {"total": gpu.start_s["total"].model_copy(update={"value": 5.0})}
    profiles = {"RTX4090": gpu.model_copy(update={"start_s": start_s})}
    deploy(site, application(CELL, profiles, (Tier.CHAT,), STREAM_INTERVAL, least=CELL.initial))
    real = replay_on(site.cluster, CELL, trace, profiles, SLO, stream_interval=STREAM_INTERVAL)
    expected = simulated(simulate_replay(CELL, trace, profiles, SLO))
    reported = differences(real.figures, expected)
    keep_figures("replay beside simulation", difference=reported, machine=real.machine)
    assert real.figures.requests == expected.requests == len(trace.requests)
    assert real.errors == []
    assert reported["within"], (reported, real.as_dict(), expected.as_dict())
