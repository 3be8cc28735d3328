"""A cell in real time: the cluster, the client's process, and what Serve does meanwhile."""

import re
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import psutil

from loadtest.load.scenario import Slo
from loadtest.process_cpu import cpu_s, machine_busy_s, server_processes
from loadtest.replay_scaling.cells import IDLE_S, ReplayCell
from loadtest.replay_scaling.client import Replay, play
from loadtest.replay_scaling.cluster import release, running_cluster
from loadtest.replay_scaling.figures import Figures, replayed
from loadtest.replay_scaling.serve_watch import RUNNING, ServeWatch, held_s, scale_actions, starts_s
from loadtest.simulation.profile import CardProfile
from loadtest.simulation.trace import Trace
from serve_app.core.tiers import Tier
from serve_app.local.cluster import LocalCluster
from serve_app.local.serve_api import ServeApiError

FIRST_REPLICAS_LIMIT_S = 240.0
_DECISION = re.compile(r"scale (?:Tier\.)?(\w+) from (\d+) to (\d+): (.*?)(?:\"|$)")


class ReplayError(RuntimeError):
    """The cell could not be played; the message says why."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """`machine` is what it cost this machine, `decisions` what the law said in Serve's log."""

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
    profiles: Mapping[str, CardProfile],
    slo: Slo,
    *,
    stream_interval: int,
) -> Replayed:
    """Play it once, on a cluster of its own. Raises ReplayError, or ClusterError where the
    application does not start."""
    with running_cluster(cell, profiles, trace.tiers, stream_interval) as cluster:
        return replay_on(cluster, cell, trace, profiles, slo, stream_interval=stream_interval)


def replay_on(
    cluster: LocalCluster,
    cell: ReplayCell,
    trace: Trace,
    profiles: Mapping[str, CardProfile],
    slo: Slo,
    *,
    stream_interval: int,
) -> Replayed:
    """On a cluster that has the cell's application with its first replicas. Raises ReplayError."""
    start_at_s = _await_initial(cell, trace, cluster) + IDLE_S
    with ServeWatch(cluster.api) as watch:
        release(cluster, cell, profiles, trace.tiers, stream_interval)
        costs = _Costs(cluster.run_id)
        played = _in_a_process(cluster.base_url, trace, start_at_s)
        machine = costs.report()
    return _replayed(trace, slo, played, watch, start_at_s, machine, _decisions(cluster))


def _await_initial(cell: ReplayCell, trace: Trace, cluster: LocalCluster) -> float:
    """Until all replicas run that are to serve at the beginning; when they did."""
    wanted = {tier.value: cell.initial[tier] for tier in trace.tiers}
    deadline_s = time.monotonic() + FIRST_REPLICAS_LIMIT_S
    found: dict[str, int] = {}
    while True:
        # A busy machine may miss one look.
        with suppress(ServeApiError):
            apps = cluster.api.status().items()
            found = {name: app.replicas.get(RUNNING, 0) for name, app in apps}
        if all(found.get(name, 0) >= count for name, count in wanted.items()):
            return time.time()
        if time.monotonic() > deadline_s:
            raise ReplayError(f"the cell begins with {wanted}, and Serve runs {found}")
        time.sleep(0.2)


def _in_a_process(base_url: str, trace: Trace, start_at_s: float) -> Replay:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(play, base_url, trace.requests, start_at_s).result()


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
    held = held_s(watch.sights, start_at_s, end_s)
    actions = scale_actions(watch.sights, start_at_s, end_s)
    starts = starts_s(watch.sights)
    reasons = {f"{r.outcome}: {r.reason} {r.detail[:200]}" for r in played.records if not r.served}
    return Replayed(
        figures=replayed(played.records, slo, gpu_s=sum(held.values()), actions=len(actions)),
        gpu_hours_by_tier={tier: seconds / 3600 for tier, seconds in held.items()},
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
