"""A running application as its users and operators see it from outside."""

import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from serve_app.core.tiers import Tier
from serve_app.local.cluster import LocalCluster
from tests.e2e.machine_clock import clock_s

POLL_S = 0.05
IN_PROGRESS = {
    "running": "tierserve_running_sequences",
    "queue depth": "tierserve_queue_depth",
    "engine running": "vllm:num_requests_running",
    "engine waiting": "vllm:num_requests_waiting",
}
# How often what must be quick is tried before its median counts.
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Site:
    """The cluster is there for logs, live settings and faults; all else goes through HTTP."""

    cluster: LocalCluster
    http: httpx.Client

    @property
    def url(self) -> str:
        return self.cluster.base_url

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers=headers)

    def tier(self, tier: Tier) -> dict[str, Any]:
        """The tier's entry of `/api/tiers`."""
        tiers = self.get("/api/tiers").json()["tiers"]
        return next(entry for entry in tiers if entry["tier"] == tier.value)

    def metrics(self) -> "Metrics":
        """One scrape. What a replica does not report in time are its last figures."""
        return Metrics(self.get("/metrics").text)

    def metrics_now(self) -> "Metrics":
        """A scrape for which every replica has reported: no figure is older than the call."""
        scrapes: list[Metrics] = []

        def are_new() -> bool:
            scrapes.append(self.metrics())
            return scrapes[-1].are_new

        wait_for(are_new, "every replica reports in time", 60)
        return scrapes[-1]

    def load(self) -> Mapping[str, float]:
        """Everything that counts work in progress, by tier, and what is late with it. Of one page:
        each is asked of the replicas four times a second at most."""
        metrics = self.metrics()
        loads = {
            f"{tier} {what}": metrics.value(name, tier=tier)
            for tier in Tier
            for what, name in IN_PROGRESS.items()
        }
        return {**loads, "late": not metrics.are_new}

    def is_idle(self) -> bool:
        return not any(self.load().values())


@dataclass(frozen=True, slots=True)
class Metrics:
    """Prometheus' text format, read line by line where only one name is wanted."""

    text: str

    @property
    def are_new(self) -> bool:
        """Whether each replica has reported for this scrape."""
        return self.value("tierserve_replica_report_age_seconds") == 0.0

    def value(self, name: str, **labels: str) -> float:
        """Sum of a sample over all series that carry these labels; 0 where there are none."""
        lines = (
            line for line in self.text.splitlines() if line.startswith((f"{name}{{", f"{name} "))
        )
        return sum(
            sample.value
            for family in text_string_to_metric_families("\n".join(lines) + "\n")
            for sample in family.samples
            if labels.items() <= sample.labels.items()
        )


@contextmanager
def site_of(cluster: LocalCluster) -> Iterator[Site]:
    # No certificates are needed here, and reading them takes longer than most requests.
    with httpx.Client(base_url=cluster.base_url, timeout=120, verify=False) as http:
        yield Site(cluster, http)


def drain_lines(log_dir: Path) -> list[dict[str, Any]]:
    """What replicas say when they begin to drain."""
    return [
        json.loads(line)
        for file in log_dir.glob("worker-*.out")
        for line in file.read_text().splitlines()
        if '"message": "draining"' in line
    ]


def wait_for(condition: Callable[[], object], what: str, within_s: float = 30.0) -> float:
    """Poll until the condition holds; the seconds that it took."""
    started_s = clock_s()
    while not condition():
        elapsed_s = clock_s() - started_s
        assert elapsed_s < within_s, f"after {elapsed_s:.1f} s still not: {what}"
        time.sleep(POLL_S)
    return clock_s() - started_s


async def assert_in_time(attempt: Callable[[], Awaitable[float]], limit_s: float) -> None:
    """What takes these seconds is quick. Where the first attempt is late, for whatever else the
    machine has to do, the median of three counts."""
    taken_s: list[float] = []
    while not taken_s or (taken_s[0] > limit_s and len(taken_s) < ROUNDS):
        taken_s.append(await attempt())
    assert median(taken_s) <= limit_s, taken_s
