"""The cluster of this folder: deploy/local-cpu.yaml with the embedded model, behind HAProxy."""

from collections.abc import Iterator

import pytest

from serve_app.local.cluster import LocalCluster
from tests.e2e.site import Site, site_of, wait_for

START_LIMIT_S = 300.0


@pytest.fixture(scope="package")
def started_site() -> Iterator[Site]:
    with LocalCluster() as cluster:
        cluster.deploy("local-cpu", timeout_s=START_LIMIT_S)
        with site_of(cluster) as site:
            wait_for(site.is_idle, "all tiers idle before the first test")
            yield site


@pytest.fixture
def site(started_site: Site) -> Iterator[Site]:
    """Idle again soon after each test: nothing is left behind for the next one."""
    yield started_site
    wait_for(started_site.is_idle, "all tiers idle after the test")
