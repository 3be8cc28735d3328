"""What Serve says of a tier's replicas while a cell is played: which there are, and the target.

Serve's REST interface lists a replica from its order until its process has gone after the drain, so
that the time between its first and its last sight is the time for which it holds a GPU.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from serve_app.core.tiers import Tier
from serve_app.local.serve_api import ServeApi, ServeApiError, get_json

PERIOD_S = 0.5
RUNNING = "RUNNING"


@dataclass(frozen=True, slots=True)
class Sight:
    """The deployments at one moment, in seconds of `time.time`: each replica's state by its name,
    and each tier's target."""

    at_s: float
    states: Mapping[Tier, Mapping[str, str]]
    targets: Mapping[Tier, int]


@dataclass(frozen=True, slots=True)
class ScaleAction:
    """A tier's target changed. `at_s` is since the replay's beginning."""

    at_s: float
    tier: Tier
    replicas: int


@dataclass(slots=True)
class ServeWatch:
    """Looks twice a second, in a thread, for as long as the block runs."""

    api: ServeApi
    sights: list[Sight] = field(default_factory=list)
    missed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "ServeWatch":
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        due_s = time.monotonic()
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s + PERIOD_S, time.monotonic())
            try:
                self.sights.append(look(self.api))
            except ServeApiError:
                self.missed += 1


def look(api: ServeApi) -> Sight:
    """Raises ServeApiError."""
    applications = get_json(api, "/api/serve/applications/")["applications"]
    return sight_of(applications, time.time())


def sight_of(applications: Mapping[str, Any], at_s: float) -> Sight:
    """From the `applications` of Serve's REST interface."""
    states: dict[Tier, Mapping[str, str]] = {}
    targets: dict[Tier, int] = {}
    for name, application in applications.items():
        deployment = (application.get("deployments") or {}).get(name)
        if name not in list(Tier) or deployment is None:
            continue
        tier = Tier(name)
        replicas = deployment.get("replicas") or []
        states[tier] = {replica["replica_id"]: replica["state"] for replica in replicas}
        targets[tier] = deployment["target_num_replicas"]
    return Sight(at_s, states, targets)


def held_s(sights: Sequence[Sight], start_s: float, end_s: float) -> dict[Tier, float]:
    """Seconds for which the tiers' replicas held GPUs between two times: each sight stands until
    the next one."""
    held: dict[Tier, float] = {}
    for number, sight in enumerate(sights):
        until_s = sights[number + 1].at_s if number + 1 < len(sights) else end_s
        span_s = min(until_s, end_s) - max(sight.at_s, start_s)
        for tier, states in sight.states.items():
            held[tier] = held.get(tier, 0.0) + max(0.0, span_s) * len(states)
    return held


def scale_actions(sights: Sequence[Sight], start_s: float, end_s: float) -> list[ScaleAction]:
    """Changes of the targets between two times, in their order."""
    actions: list[ScaleAction] = []
    before: dict[Tier, int] = {}
    for sight in sights:
        for tier, target in sight.targets.items():
            if target != before.get(tier, target) and start_s <= sight.at_s <= end_s:
                actions.append(ScaleAction(round(sight.at_s - start_s, 1), tier, target))
            before[tier] = target
    return actions


def starts_s(sights: Sequence[Sight]) -> list[float]:
    """From the order to the readiness of each replica that was ordered during these sights."""
    ordered_s: dict[str, float] = {}
    ready_s: dict[str, float] = {}
    for sight in sights:
        for states in sight.states.values():
            for replica, state in states.items():
                ordered_s.setdefault(replica, sight.at_s)
                if state == RUNNING:
                    ready_s.setdefault(replica, sight.at_s)
    there = {name for states in sights[0].states.values() for name in states} if sights else set()
    return [ready_s[name] - ordered_s[name] for name in ready_s if name not in there]
