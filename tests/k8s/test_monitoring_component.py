"""The component monitoring in an overlay: its monitors find the Pods, their ports, and a way in."""

from pathlib import Path

import yaml

from tests.k8s.manifests import render
from tests.k8s.operator_pods import pods_of


def test_monitors_find_pods_and_ports_and_may_reach_them(tree: Path) -> None:
    path = tree / "k8s" / "overlays" / "mixed" / "kustomization.yaml"
    overlay = yaml.safe_load(path.read_text())
    # Before the keys, which change what it brings.
    overlay["components"].insert(0, "../../components/monitoring")
    path.write_text(yaml.safe_dump(overlay))
    m = render("mixed", tree)
    (policy,) = (p for p in m.all("NetworkPolicy") if p["metadata"]["name"] == "tierserve-ray")
    open_ports = {
        port["port"]
        for rule in policy["spec"]["ingress"]
        for port in rule.get("ports", [])
        if "prometheus" in str(rule)
    }
    assert m.all("PodMonitor")
    application = m.named("PodMonitor", "tierserve")
    assert application is not None
    (scraped,) = application["spec"]["podMetricsEndpoints"]
    assert scraped["authorization"] == {"credentials": {"name": "tierserve-metrics", "key": "key"}}
    for monitor in m.all("PodMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        pods = [p for p in pods_of(m.rayservice) if wanted <= p["metadata"]["labels"].items()]
        assert pods
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for pod in pods:
                ports = {p["name"]: p["containerPort"] for p in _ports(pod)}
                assert ports[endpoint["port"]] in open_ports


def _ports(pod: dict) -> list[dict]:
    return pod["spec"]["containers"][0]["ports"]
