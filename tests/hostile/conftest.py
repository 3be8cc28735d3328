"""The service under attack: deploy/local-cpu.yaml with micro-r1 in both tiers, behind HAProxy."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.core.tiers import Tier
from serve_app.engine.models.model_dir import MICRO_MODEL
from serve_app.local.cluster import LocalCluster
from serve_app.local.profiles import load_profile
from tests.e2e.site import Site, site_of
from tests.hostile.attack import ARROW, Tally, Target, grouped
from tests.hostile.probe import Probe, probing
from tests.hostile.verdict import DETAIL
from tests.hostile.watch import Watch

HERE = Path(__file__).parent
START_LIMIT_S = 300.0
TIMEOUT_S = 400
# An attacker has a machine of his own; here he has what the service and the probe leave him.
ATTACKERS_NICENESS = 10
# All short, so that a test that waits for them is.
STALL_S = 5.0
BODY_TIMEOUT_S = 5.0
ENVIRONMENT = {"RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "15"}
# What a kind of attack may leave behind in a process: allocators keep some of what they had.
MOST_GROWTH_MIB = 300.0
SETTLE_S = 3.0
TALLIES = pytest.StashKey[list[Tally]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            for mark in (pytest.mark.hostile, pytest.mark.e2e, pytest.mark.ray):
                item.add_marker(mark)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def started_site() -> Iterator[Site]:
    config = load_profile("local-cpu")
    for app in config["applications"]:
        if app["name"] not in list(Tier):
            continue
        app["args"]["model"] = MICRO_MODEL
        admission = app["deployments"][0]["user_config"].setdefault("admission", {})
        admission["client_stall_s"] = STALL_S
        admission["body_timeout_s"] = BODY_TIMEOUT_S
    with LocalCluster(environment=ENVIRONMENT) as cluster:
        cluster.deploy(config, timeout_s=START_LIMIT_S)
        with site_of(cluster) as site:
            yield site


@pytest.fixture(scope="session")
def probe(started_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    file = tmp_path_factory.mktemp("probe") / "questions.jsonl"
    for tier in Tier:
        # The first request of an engine with logprobs compiles for seconds, unless a file cache
        # has it, and loads what does.
        body = {"prompt": "hi", "max_tokens": 1, "logprobs": True, "top_logprobs": 1}
        assert started_site.post(tier.route_prefix, body).status_code == 200
    with probing(started_site.url, file) as running:
        # The first questions compile what later ones find compiled.
        time.sleep(SETTLE_S)
        yield running


@pytest.fixture(scope="session")
def watch(started_site: Site, probe: Probe) -> Iterator[Watch]:
    watching = Watch(started_site.cluster)
    watching.take_stock()
    before = os.nice(0)
    os.nice(ATTACKERS_NICENESS - before)
    with watching.sampling():
        yield watching


@pytest.fixture(scope="module")
def target(
    request: pytest.FixtureRequest, started_site: Site, probe: Probe, watch: Watch
) -> Iterator[Target]:
    """All tests of a module are one kind of attack; what it did to others is asked at its end."""
    kind = request.module.__name__.rpartition(".test_")[2]
    tally = Tally(kind)
    request.config.stash.setdefault(TALLIES, []).append(tally)
    watch.peak_bytes = 0
    before_mib = watch.memory_mib()
    target = Target(started_site, probe, watch, tally)
    yield target
    faults = target.end_kind()
    after_mib = watch.memory_mib()
    grown = {title: after_mib.get(title, 0.0) - size for title, size in before_mib.items()}
    tally.grown_mib = max(grown.values(), default=0.0)
    tally.peak_mib = watch.peak_bytes / (1 << 20)
    faults += [
        f"memory{ARROW}{title} has more{DETAIL}{mib:.0f} MiB"
        for title, mib in grown.items()
        if mib > MOST_GROWTH_MIB
    ]
    tally.faults += faults
    assert not faults, "\n".join(grouped(faults))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    tallies = config.stash.get(TALLIES, [])
    if not tallies:
        return
    terminalreporter.section("hostile")
    for line in table(tallies):
        terminalreporter.write_line(line)
    for tally in tallies:
        for line in (*tally.notes, *grouped(tally.faults)):
            terminalreporter.write_line(f"{tally.kind}: {line}")


def table(tallies: list[Tally]) -> list[str]:
    """What was sent, how it was answered, and what it cost everybody else."""
    head = (
        f"{'kind':<14}{'requests':>9}{'slowest':>9}{'others waited':>15}{'probes':>8}"
        f"{'peak MiB':>10}{'grown MiB':>11}  statuses; slowest"
    )
    return [head] + [
        f"{tally.kind:<14}{tally.requests:>9}{tally.slowest_s:>8.1f}s{tally.longest_wait_s:>14.2f}s"
        f"{tally.probes:>8}{tally.peak_mib:>10.0f}{tally.grown_mib:>11.0f}  "
        + ", ".join(f"{count} x {status}" for status, count in sorted(tally.statuses.items()))
        + f"; {tally.slowest}"
        for tally in tallies
    ]
