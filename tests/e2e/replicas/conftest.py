"""The cluster of this folder: a small random model, chat with two replicas, behind HAProxy. Its
requests are traced."""

from collections.abc import Iterator

import pytest

from serve_app.core.tiers import Tier
from serve_app.local.cluster import LocalCluster
from tests.e2e.configs import small_model_config
from tests.e2e.replicas.faults import answers
from tests.e2e.site import Site, site_of, wait_for
from tests.otlp_receiver import Receiver, receiving

START_LIMIT_S = 300.0


@pytest.fixture(scope="package")
def collector() -> Iterator[Receiver]:
    """What the cluster's spans are sent to."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="package")
def started_site(collector: Receiver) -> Iterator[Site]:
    with LocalCluster(environment={"TIERSERVE_OTLP_ENDPOINT": collector.url}) as cluster:
        cluster.deploy(small_model_config(chat_replicas=2), timeout_s=START_LIMIT_S)
        with site_of(cluster) as site:
            yield site


@pytest.fixture
def site(started_site: Site) -> Iterator[Site]:
    """Two replicas of chat that answer and one of reasoning, idle before and after. The
    last test of the folder (test_scale_down.py) leaves one of chat."""

    def complete() -> bool:
        if not answers(started_site):
            return False
        chat, reasoning = (started_site.tier(tier)["replicas"] for tier in Tier)
        ready = all(replica["ready"] for replica in [*chat, *reasoning])
        return (len(chat), len(reasoning)) == (2, 1) and ready

    wait_for(complete, "two replicas of chat and one of reasoning", 120)
    wait_for(started_site.is_idle, "all tiers idle before the test")
    yield started_site
    wait_for(started_site.is_idle, "all tiers idle after the test")
