"""The component tracing: a collector that the settings name and that the network lets reach."""

from pathlib import Path
from urllib.parse import urlsplit

import yaml

from serve_app.config.tier import refuse_unknown_variables
from tests.k8s.manifests import render


def test_spans_have_an_address_and_a_way_to_it(tree: Path) -> None:
    path = tree / "k8s" / "overlays" / "mixed" / "kustomization.yaml"
    overlay = yaml.safe_load(path.read_text())
    overlay["components"].append("../../components/tracing")
    path.write_text(yaml.safe_dump(overlay))
    m = render("mixed", tree)
    runtime = m.named("ConfigMap", "tierserve-runtime")
    policy = m.named("NetworkPolicy", "tierserve-ray-to-collector")
    assert runtime is not None
    assert policy is not None
    refuse_unknown_variables(runtime["data"])
    address = urlsplit(runtime["data"]["TIERSERVE_OTLP_ENDPOINT"])
    assert address.hostname is not None
    (rule,) = policy["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [address.port]
    namespace = rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert address.hostname.split(".")[1] == namespace
