"""The Prometheus Operator's objects scrape what the plain configuration scrapes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.monitoring.rules import HERE

ROOT = Path(__file__).parents[2]
COMPONENT = ROOT / "k8s" / "components" / "monitoring"
# A folder with the operator's CRDs, as its releases have them (example/prometheus-operator-crd).
CRDS = os.environ.get("PROMETHEUS_OPERATOR_CRDS")


def objects() -> list[dict[str, Any]]:
    """PodMonitors and PrometheusRule."""
    files = ("podmonitor.yaml", "prometheusrule.yaml")
    return [each for file in files for each in yaml.safe_load_all((COMPONENT / file).read_text())]


def endpoint_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A PodMonitor's spec and its only endpoint."""
    (spec,) = (
        each["spec"]
        for each in objects()
        if each["kind"] == "PodMonitor" and each["metadata"]["name"] == name
    )
    (endpoint,) = spec["podMetricsEndpoints"]
    return spec, endpoint


def plain_job(name: str) -> dict[str, Any]:
    config = yaml.safe_load((HERE / "prometheus.yml").read_text())
    (job,) = (each for each in config["scrape_configs"] if each["job_name"] == name)
    return job


def test_the_page_is_scraped_once_for_a_cluster_under_its_name() -> None:
    spec, endpoint = endpoint_of("tierserve")
    assert spec["selector"]["matchLabels"] == {"ray.io/node-type": "head"}
    assert (endpoint["port"], endpoint["path"]) == ("serve", "/metrics")
    relabelled = {each.get("targetLabel"): each for each in endpoint["relabelings"]}
    assert relabelled["job"]["replacement"] == "tierserve"
    cluster = "__meta_kubernetes_pod_label_ray_io_cluster"
    assert relabelled["instance"]["sourceLabels"] == [cluster]


def test_no_label_of_the_operator_hides_one_of_the_application() -> None:
    _, endpoint = endpoint_of("tierserve")
    dropped = [e["regex"] for e in endpoint["relabelings"] if e.get("action") == "labeldrop"]
    assert dropped == ["endpoint|pod|container"]
    assert endpoint["honorLabels"] is True


@pytest.mark.parametrize(("monitor", "job"), [("tierserve", "tierserve"), ("tierserve-ray", "ray")])
def test_the_operator_keeps_the_same_series(monitor: str, job: str) -> None:
    names = {"sourceLabels": "source_labels"}
    kept = [
        {names.get(key, key): value for key, value in each.items()}
        for each in endpoint_of(monitor)[1]["metricRelabelings"]
    ]
    assert kept == plain_job(job)["metric_relabel_configs"]


def test_every_node_of_ray_is_scraped() -> None:
    spec, endpoint = endpoint_of("tierserve-ray")
    assert spec["selector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    assert endpoint["port"] == "metrics"


def test_the_pods_have_the_ports_that_are_asked_for() -> None:
    (service,) = yaml.safe_load_all((ROOT / "k8s" / "base" / "rayservice.yaml").read_text())
    cluster = service["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", ())]
    for number, group in enumerate(groups):
        (ray, *_) = group["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in ray["ports"]}
        assert ports["metrics"] == 8080
        assert number > 0 or ports["serve"] == 8000


@pytest.mark.skipif(CRDS is None, reason="PROMETHEUS_OPERATOR_CRDS names no folder with the CRDs")
@pytest.mark.parametrize("manifest", objects(), ids=lambda each: each["kind"])
def test_the_operators_schema_knows_every_field(manifest: dict[str, Any]) -> None:
    plural = f"{manifest['kind'].lower()}s"
    file = Path(CRDS or "") / f"monitoring.coreos.com_{plural}.yaml"
    (version,) = yaml.safe_load(file.read_text())["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    # The schema itself is not checked: its patterns are Go's.
    assert list(jsonschema.Draft202012Validator(closed(schema)).iter_errors(manifest)) == []


def test_a_field_that_the_schema_does_not_know_is_found() -> None:
    schema = closed({"type": "object", "properties": {"a": {"type": "string"}}})
    with pytest.raises(jsonschema.ValidationError, match="'b' was unexpected"):
        jsonschema.validate({"a": "x", "b": "y"}, schema)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema as an API server applies it strictly: what it does not name is a fault."""
    return dict(_closed(schema))


def _closed(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in schema.items():
        if key == "properties":
            yield key, {name: closed(each) for name, each in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            yield key, closed(value)
        else:
            yield key, value
    loose = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"}
    if "properties" in schema and not loose & schema.keys():
        yield "additionalProperties", False
