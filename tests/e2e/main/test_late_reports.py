"""A replica that cannot answer for some seconds has not stopped to exist."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.core.tiers import Tier
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import Site, wait_for

# Longer than the web application waits for a report, and than its figures are shared.
FROZEN_S = 7.0
# Each look waits for the replica, so that the first one after its figures are old may come late.
# Serve takes a replica that does not answer for dead after 30 s.
MOST_FROZEN_S = 20.0


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_late_replicas_figures_stand_with_their_age_and_its_tier_stays_ready(site: Site) -> None:
    before = site.tier(Tier.CHAT)
    (replica,) = before["replicas"]
    site.metrics()
    seen_stale, age_s = 0, 0.0
    with frozen(replica["pid"]):
        frozen_s = looked_s = clock_s()
        while looked_s - frozen_s < (FROZEN_S if seen_stale and age_s > 1.0 else MOST_FROZEN_S):
            tier = site.tier(Tier.CHAT)
            assert (tier["slots"], tier["ready"]) == (before["slots"], True)
            seen_stale += tier["stale"]
            assert site.get("/readyz").status_code == 200
            assert site.get("/health").status_code == 200
            metrics = site.metrics()
            assert metrics.value("tierserve_replicas_reporting", tier="chat") == 1.0
            assert metrics.value("tierserve_slots", tier="chat") == before["slots"]
            age_s = max(age_s, metrics.value("tierserve_replica_report_age_seconds", tier="chat"))
            looked_s = clock_s()
    assert seen_stale
    assert age_s > 1.0
    wait_for(lambda: not site.tier(Tier.CHAT)["stale"], "it reports again")
    wait_for(
        lambda: site.metrics().value("tierserve_replica_report_age_seconds", tier="chat") == 0.0,
        "its metrics are new",
    )
