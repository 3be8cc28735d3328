"""The cluster of this folder. Only Ray believes in its GPUs; each test deploys what it needs."""

from collections.abc import Iterator

import pytest

from loadtest.servers.ray_nodes import RTX_4090, T4, gpu_nodes
from serve_app.local.cluster import LocalCluster
from tests.e2e.site import Site, site_of

NODES = (T4, RTX_4090, RTX_4090)
ENVIRONMENT = {
    # Nobody waits here for a load balancer that learns slowly.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # Further nodes join this head, at an address of their own.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
}


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    head = LocalCluster(environment=ENVIRONMENT, ray_options=("--num-cpus=2", "--num-gpus=0"))
    with head as cluster, gpu_nodes(cluster, NODES), site_of(cluster) as running:
        yield running
