"""A cell in real time: the cluster, the client's process, and what Serve does meanwhile.

Serve's REST interface lists a replica from its order until its process has gone after the drain, so
that the time between its first and its last sight is the time for which it holds a GPU.
"""

import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import mean
from typing import Any

import psutil

from loadtest.errors import MeasurementError
from loadtest.scenario import Slo
from loadtest.servers.processes import cpu_s, machine_busy_s, server_processes
from loadtest.simulation.profile import GpuProfile
from loadtest.simulation.trace import Trace
from loadtest.studies.replay_scaling.cells import IDLE_S, ReplayCell
from loadtest.studies.replay_scaling.client import Replay, play
from loadtest.studies.replay_scaling.cluster import release, running_cluster
from loadtest.studies.replay_scaling.results import Figures, replayed
from serve_app.core.tiers import Tier
from serve_app.local.cluster import LocalCluster
from serve_app.local.serve_api import ServeApi, ServeApiError, get_json

PERIOD_S = 0.5
RUNNING = "RUNNING"
FIRST_REPLICAS_LIMIT_S = 240.0
_DECISION = re.compile(r"scale (?:Tier\.)?(\w+) from (\d+) to (\d+): (.*?)(?:\"|$)")


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

    def __exit__(self, *_: object) -> None:
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


def gpu_seconds(sights: Sequence[Sight], start_s: float, end_s: float) -> dict[Tier, float]:
    """Seconds for which the tiers' replicas held GPUs between two times: each sight stands until
    the next one."""
    used_s: dict[Tier, float] = {}
    for number, sight in enumerate(sights):
        until_s = sights[number + 1].at_s if number + 1 < len(sights) else end_s
        span_s = min(until_s, end_s) - max(sight.at_s, start_s)
        for tier, states in sight.states.items():
            used_s[tier] = used_s.get(tier, 0.0) + max(0.0, span_s) * len(states)
    return used_s


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


@dataclass(frozen=True, slots=True)
class Replayed:
    """`machine`: what it cost this machine; `decisions`: what the policy wrote into Serve's log."""

    figures: Figures
    gpu_hours_by_tier: Mapping[Tier, float]
    changes: list[dict[str, Any]]
    start_s: float | None
    machine: dict[str, Any]
    client: dict[str, Any]
    errors: list[str]
    decisions: list[str]

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.figures.as_dict(),
            "gpu_hours_by_tier": {t.value: round(h, 5) for t, h in self.gpu_hours_by_tier.items()},
            "start_s": self.start_s,
            "changes": self.changes,
            "decisions": self.decisions,
            "errors": self.errors,
            "client": self.client,
            "machine": self.machine,
        }


def replay(
    cell: ReplayCell,
    trace: Trace,
    profiles: Mapping[str, GpuProfile],
    slo: Slo,
    *,
    stream_interval: int,
) -> Replayed:
    """Play it once, on a cluster of its own. Raises MeasurementError, or ClusterError where the
    application does not start."""
    with running_cluster(cell, profiles, trace.tiers, stream_interval) as cluster:
        return replay_on(cluster, cell, trace, profiles, slo, stream_interval=stream_interval)


def replay_on(
    cluster: LocalCluster,
    cell: ReplayCell,
    trace: Trace,
    profiles: Mapping[str, GpuProfile],
    slo: Slo,
    *,
    stream_interval: int,
) -> Replayed:
    """On a cluster with the cell's application and first replicas. Raises MeasurementError."""
    start_at_s = _await_initial(cell, trace, cluster) + IDLE_S
    with ServeWatch(cluster.api) as watch:
        release(cluster, cell, profiles, trace.tiers, stream_interval)
        costs = _Costs(cluster.run_id)
        played = _in_a_process(cluster.base_url, trace, start_at_s)
        machine = costs.report()
    return _replayed(trace, slo, played, watch, start_at_s, machine, _decisions(cluster))


def _await_initial(cell: ReplayCell, trace: Trace, cluster: LocalCluster) -> float:
    """Until all replicas run that are to serve at the beginning; when they did."""
    initial = {tier.value: cell.initial[tier] for tier in trace.tiers}
    deadline_s = time.monotonic() + FIRST_REPLICAS_LIMIT_S
    found: dict[str, int] = {}
    while True:
        # A busy machine may miss one look.
        with suppress(ServeApiError):
            apps = cluster.api.status().items()
            found = {name: app.replicas.get(RUNNING, 0) for name, app in apps}
        if all(found.get(name, 0) >= count for name, count in initial.items()):
            return time.time()
        if time.monotonic() > deadline_s:
            raise MeasurementError(f"the cell begins with {initial}, and Serve runs {found}")
        time.sleep(0.2)


def _in_a_process(base_url: str, trace: Trace, start_at_s: float) -> Replay:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        played = pool.submit(play, base_url, trace.requests, start_at_s)
        try:
            return played.result()
        except BaseException:
            # Whoever interrupts this would wait until the whole trace has been played.
            for process in active_children():
                process.terminate()
            raise


def _replayed(
    trace: Trace,
    slo: Slo,
    played: Replay,
    watch: ServeWatch,
    start_at_s: float,
    machine: dict[str, Any],
    decisions: list[str],
) -> Replayed:
    end_s = start_at_s + trace.duration_s
    used_s = gpu_seconds(watch.sights, start_at_s, end_s)
    actions = scale_actions(watch.sights, start_at_s, end_s)
    starts = starts_s(watch.sights)
    reasons = {f"{r.outcome}: {r.reason} {r.detail[:200]}" for r in played.records if not r.served}
    return Replayed(
        figures=replayed(played.records, slo, gpu_s=sum(used_s.values()), actions=len(actions)),
        gpu_hours_by_tier={tier: seconds / 3600 for tier, seconds in used_s.items()},
        changes=[asdict(action) for action in actions],
        start_s=round(mean(starts), 1) if starts else None,
        machine={**machine, "sights": len(watch.sights), "sights_missed": watch.missed},
        client=played.generator,
        errors=sorted(reasons)[:20],
        decisions=decisions,
    )


class _Costs:
    """Of the cluster's processes and of the whole machine, in cores."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._began_s = time.monotonic()
        self._cluster_s = cpu_s(server_processes(run_id))
        self._machine_s = machine_busy_s()

    def report(self) -> dict[str, Any]:
        wall_s = time.monotonic() - self._began_s
        cluster_s = cpu_s(server_processes(self._run_id)) - self._cluster_s
        return {
            "cluster_cores": round(cluster_s / wall_s, 3),
            "all_cores": round((machine_busy_s() - self._machine_s) / wall_s, 3),
            "cores": psutil.cpu_count(),
            "load_average": round(psutil.getloadavg()[1], 2),
        }


def _decisions(cluster: LocalCluster) -> list[str]:
    """What our policy wrote into the log of Serve's controller."""
    found: list[str] = []
    for file in sorted((cluster.log_dir / "serve").glob("controller_*.log")):
        found += decisions_of(file)
    return found


def decisions_of(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [match.group(0).rstrip('"') for line in lines if (match := _DECISION.search(line))]
