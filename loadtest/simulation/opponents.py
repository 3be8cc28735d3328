"""The settings that an operator would try of each policy that has some, and the policy with one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.simulation.kubernetes_policies import (
    AibrixApa,
    Descent,
    LlmdSaturation,
    WaitingThreshold,
)
from loadtest.simulation.policies import RayDefault, ServeDelays, serve_config
from loadtest.simulation.run import Policy
from loadtest.simulation.settings_search import Setting
from loadtest.simulation.setup import Setup

Axes = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Opponent:
    """`coarse` is where the search begins, with values of `axes`; what is mostly best comes first,
    so that what is much worse is soon given up."""

    axes: Axes
    coarse: Axes
    make: Callable[[Setting, Setup], Policy]


def _ray(setting: Setting, setup: Setup) -> Policy:
    config = serve_config(
        setup,
        setting["downscale_delay_s"],
        setting["look_back_period_s"],
        setting["target_ongoing_requests"],
    )
    return RayDefault(ServeDelays(config))


def _keda(setting: Setting, setup: Setup) -> Policy:
    descent = Descent(setting["stabilisation_s"])
    return WaitingThreshold(setting["threshold"], setup.minimum, setup.gpu_count, descent)


def _llmd(setting: Setting, setup: Setup) -> Policy:
    # The spare that is kept is three fifths of the threshold, as in the defaults.
    queue = setting["queue_threshold"]
    return LlmdSaturation(
        queue,
        0.6 * queue,
        setup.minimum,
        setup.gpu_count,
        kv_threshold=setting["kv_threshold"],
        descent=Descent(setting["stabilisation_s"]),
    )


def _aibrix(setting: Setting, setup: Setup) -> Policy:
    return AibrixApa(
        setting["per_replica"], setup.minimum, setup.gpu_count, cooldown_s=setting["cooldown_s"]
    )


OPPONENTS: Mapping[str, Opponent] = {
    # Ray's defaults are 2 requests a replica, 600 s and 30 s.
    "ray-default": Opponent(
        axes={
            "target_ongoing_requests": (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 160, 200),
            "downscale_delay_s": (30.0, 60.0, 120.0, 300.0, 600.0),
            "look_back_period_s": (2.0, 30.0),
        },
        coarse={
            "target_ongoing_requests": (32, 64, 96, 8, 160, 2),
            "downscale_delay_s": (60.0, 300.0),
            "look_back_period_s": (2.0,),
        },
        make=_ray,
    ),
    "waiting-threshold": Opponent(
        axes={"threshold": (1, 2, 5, 10, 20, 50), "stabilisation_s": (60.0, 300.0)},
        coarse={"threshold": (5, 1, 20), "stabilisation_s": (300.0,)},
        make=_keda,
    ),
    "llm-d": Opponent(
        axes={
            "queue_threshold": (1, 2, 5, 10, 20),
            "kv_threshold": (0.2, 0.3, 0.5, 0.8),
            "stabilisation_s": (60.0, 300.0),
        },
        coarse={
            "queue_threshold": (5,),
            "kv_threshold": (0.3, 0.8),
            "stabilisation_s": (300.0,),
        },
        make=_llmd,
    ),
    "aibrix": Opponent(
        axes={
            "per_replica": (2, 4, 8, 16, 32, 48, 64, 96, 128, 160),
            "cooldown_s": (60.0, 300.0),
        },
        coarse={"per_replica": (32, 96, 8), "cooldown_s": (300.0,)},
        make=_aibrix,
    ),
}
