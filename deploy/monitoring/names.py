"""The metrics that a running application has: what rules and dashboards may ask for."""

import json
import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.monitoring.binaries import MonitoringError
from deploy.monitoring.rules import HERE

REQUEST_LIMIT_S = 20.0
NAMES_FILE = HERE / "names.json"
# No machine without a GPU has these; the names are those of Ray's `reporter_agent.py`.
GPU_NAMES: Mapping[str, frozenset[str]] = {
    name: frozenset({"ip", "GpuIndex", "GpuDeviceName"})
    for name in ("ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available")
}

# Of no application without API keys; the names are those of serve_app/api/usage.py.
KEYS_NAMES: Mapping[str, frozenset[str]] = {
    "tierserve_key_day_tokens_used_ratio": frozenset({"key"}),
    "tierserve_key_gpu_seconds_total": frozenset({"key", "tier"}),
    "tierserve_key_refused_total": frozenset({"key", "tier"}),
    "tierserve_key_requests_total": frozenset({"key", "tier"}),
    "tierserve_key_tokens_total": frozenset({"key", "tier", "kind"}),
    "tierserve_keys_refused_total": frozenset({"reason", "replica", "tier"}),
    "tierserve_price_per_gpu_hour": frozenset(),
}


def recorded_names() -> dict[str, frozenset[str]]:
    """Each series of the pages recorded last, with its labels; and what only a GPU adds, and what
    only API keys do."""
    recorded = json.loads(NAMES_FILE.read_text())
    return {
        **{name: frozenset(labels) for name, labels in recorded.items()},
        **GPU_NAMES,
        **KEYS_NAMES,
    }


def record_names(application: str, ray_targets: Path) -> int:
    """Write NAMES_FILE from the pages of a running application (host:port) and of its Ray cluster;
    how many names. Load must have run: some series begin with their first event."""
    names = live_names(application, ray_targets)
    lines = [f"{json.dumps(name)}: {json.dumps(sorted(names[name]))}" for name in sorted(names)]
    NAMES_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return len(names)


def live_names(application: str, ray_targets: Path) -> dict[str, set[str]]:
    """Each series on the pages now that Prometheus keeps, with its labels. Ray's autoscaler and
    dashboard have pages of their own, of which nothing is kept: only the first target, the node's,
    is read."""
    found = _names_on(f"http://{application}/metrics")
    kept = re.compile(kept_of_ray())
    for group in json.loads(ray_targets.read_text()):
        of_ray = _names_on(f"http://{group['targets'][0]}/metrics")
        found |= {name: labels for name, labels in of_ray.items() if kept.fullmatch(name)}
    return found


def kept_of_ray() -> str:
    """The pattern by which the scrape configuration chooses among Ray's metrics."""
    config = yaml.safe_load((HERE / "prometheus.yml").read_text())
    (job,) = (each for each in config["scrape_configs"] if each["job_name"] == "ray")
    (keep,) = (each for each in job["metric_relabel_configs"] if each["action"] == "keep")
    return keep["regex"]


def _names_on(url: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(_page(url)):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def _page(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=REQUEST_LIMIT_S) as answer:
            return answer.read().decode()
    except OSError as error:
        raise MonitoringError(f"No metrics page answers at {url}: {error}") from error
