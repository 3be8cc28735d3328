"""The T4 overlay's Pods, started once for all tests of this folder."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve_app.core.tiers import Tier
from tests.k8s.manifests import Manifests
from tests.k8s.pods.operator import Operator, serve_config, wait_for
from tests.k8s.pods.site import adapted, running
from tests.k8s.pods.watch import is_running, keep

OVERLAY = "t4-eks"
# A folder that `make test-image` has filled; unset: this machine's own root.
IMAGE_VARIABLE = "POD_IMAGE"
HEAD_WITHIN_S = 90.0
SERVING_WITHIN_S = 300.0
READY_WITHIN_S = 60.0
# Two with a GPU, one for the gateway.
WORKERS = 3
_TOOLS = ("ip", "nsenter", "unshare", "setpriv", "redis-server", "wget")


@pytest.fixture(scope="session")
def operator(rendered: Callable[[str], Manifests]) -> Iterator[Operator]:
    """Both tiers serve, and the workers are ready."""
    _skip_where_it_cannot_run()
    manifests = adapted(rendered(OVERLAY))
    chosen = os.environ.get(IMAGE_VARIABLE)
    with running(manifests, Path(chosen) if chosen else None) as site:
        head_s = wait_for(lambda: site.head.ready or site.crashed(), "the head", HEAD_WITHIN_S)
        assert not site.crashed(), site.crashed()
        wait_for(lambda: site.submit(serve_config(manifests)) is None, "Serve takes it", 60)
        serving_s = wait_for(lambda: is_running(site), "both tiers serve", SERVING_WITHIN_S)
        ready_s = wait_for(
            lambda: len(site.endpoints()) == WORKERS, "workers ready", READY_WITHIN_S
        )
        keep("start", head_s=head_s, serving_s=head_s + serving_s, ready_s=ready_s)
        yield site
        there = {role: pod for role, pod in site.pods.items() if not pod.leaving}
        keep("memory", **{role: pod.main.peak_bytes() for role, pod in there.items()})


@pytest.fixture
def site(operator: Operator) -> Operator:
    """Begins and ends with all of it serving."""
    wait_for(lambda: len(operator.endpoints()) == WORKERS, "all workers are ready", READY_WITHIN_S)
    wait_for(lambda: is_running(operator, *Tier), "both tiers serve", READY_WITHIN_S)
    return operator


def _skip_where_it_cannot_run() -> None:
    if os.geteuid() != 0:
        pytest.skip("namespaces for Pods take root")
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
