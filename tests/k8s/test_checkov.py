"""checkov over the overlays, with the Pods that the operator makes in place of the RayService, into
which it does not see. One run for all, faults on purpose among them."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import OVERLAYS, REPO, Manifests
from tests.k8s.operator_pods import pods_of

CHECKOV = REPO / os.environ.get("CHECKOV", "named-by-make-test-k8s")
RAY_POD = r"Pod\.tierserve\.tierserve-abcde-.*"
HEAD_POD = r"Pod\.tierserve\.tierserve-abcde-headgroup"
# What it reports, of which objects, and why that stays.
ACCEPTED = {
    "CKV_K8S_43": (".*", "a digest is the release's to put into the overlay's images"),
    "CKV_K8S_15": (".*", "tags are not reused, so that nothing is pulled anew for a restart"),
    "CKV_K8S_40": (".*", "the images' own users, which the volumes belong to"),
    "CKV_K8S_35": (rf"{RAY_POD}|StatefulSet.*redis", "the operator and Redis take variables only"),
    "CKV_K8S_11": (RAY_POD, "a CPU limit would throttle the engine's loop"),
    "CKV_K8S_38": (HEAD_POD, "the autoscaler's sidecar talks to the API server"),
    "CKV_K8S_8": (HEAD_POD, "the operator gives the sidecar no probes"),
    "CKV_K8S_9": (HEAD_POD, "the operator gives the sidecar no probes"),
}
# A change of a worker's Pod, and the check that must see it.
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "privileged": ("CKV_K8S_16", {"privileged": True}),
    "escalation": ("CKV_K8S_20", {"allowPrivilegeEscalation": True}),
    "writable-root": ("CKV_K8S_22", {"readOnlyRootFilesystem": False}),
    "capabilities": ("CKV_K8S_25", {"capabilities": {"add": ["SYS_ADMIN"]}}),
}

pytestmark = [
    pytest.mark.skipif(
        not os.access(CHECKOV, os.X_OK),
        reason="takes a minute, and a checkov that CHECKOV names: run by `make test-k8s`",
    ),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def failures(
    rendered: Callable[[str], Manifests], tmp_path_factory: pytest.TempPathFactory
) -> set[tuple[str, str]]:
    """(check, object) of all that failed."""
    folder = tmp_path_factory.mktemp("expanded")
    for overlay in OVERLAYS:
        m = rendered(overlay)
        others = [each for each in m.objects if each["kind"] != "RayService"]
        text = yaml.safe_dump_all([*others, *pods_of(m.rayservice)])
        (folder / f"{overlay}.yaml").write_text(text)
    for name, (_, context) in FAULTS.items():
        pod = pods_of(rendered("mixed").rayservice)[1]
        pod["metadata"]["name"] = f"fault-{name}"
        pod["spec"]["containers"][0]["securityContext"] |= context
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(pod))
    command = [str(CHECKOV), "--directory", str(folder), "--framework", "kubernetes"]
    command += ["--skip-download", "--quiet", "--compact", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    return {(f["check_id"], f["resource"]) for f in report["results"]["failed_checks"]}


def test_nothing_fails_but_what_is_accepted(failures: set[tuple[str, str]]) -> None:
    ours = {each for each in failures if "fault-" not in each[1]}
    left = {
        (check, name)
        for check, name in ours
        if not re.fullmatch(ACCEPTED.get(check, ("", ""))[0], name)
    }
    assert left == set()
    assert {check for check, _ in ours} == ACCEPTED.keys()


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_seen(failures: set[tuple[str, str]], name: str) -> None:
    assert (FAULTS[name][0], f"Pod.tierserve.fault-{name}") in failures
