"""Prometheus beside the application under load: all that it records and shows has data, and alerts
fire on faults and clear after them. The rules' windows are a fifteenth as long as they are."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from deploy.monitoring.board import NOT_EVERYWHERE
from deploy.monitoring.names import GPU_NAMES, KEYS_NAMES, live_names, recorded_names
from deploy.monitoring.queries import PrometheusApi, ask_all
from deploy.monitoring.rules import expressions, selected
from deploy.monitoring.run import RAY_TARGETS, Prometheus, Times, find_ray_targets, lay_out
from serve_app.core.tiers import Tier
from serve_app.engine.models.model_dir import MICRO_MODEL
from serve_app.local.cluster import LocalCluster
from serve_app.local.ports import free_ports
from serve_app.local.profiles import load_profile
from tests.e2e.client import ask, client_session, work
from tests.e2e.figures import keep_figures
from tests.e2e.site import Site, site_of, wait_for

START_LIMIT_S = 300.0
# A scrape may take as long as its interval, and the machine is busy.
TIMES = Times(scrape_s=2, shorter=15)
# Half an hour, after which replicas that restarted are counted.
LONGEST_S = 1800 / TIMES.shorter
FLOOD = 60
INVALID = {"max_new_tokens": 7, "admission": {"max_wait_s": -1}}


@dataclass(frozen=True, slots=True)
class Watched:
    """The application, the Prometheus that watches it, and since when."""

    site: Site
    api: PrometheusApi
    config: dict[str, Any]
    since_s: float


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The application, which Prometheus was there before, with a light load on both tiers."""
    config = short_lines()
    with LocalCluster() as cluster:
        ray_targets = cluster.run_dir / RAY_TARGETS
        wait_for(ray_targets.exists, "Ray names its metrics pages", 60)
        folder = tmp_path_factory.mktemp("prometheus")
        laid_out = lay_out(folder, f"127.0.0.1:{cluster.port}", ray_targets, TIMES)
        with Prometheus(laid_out, free_ports(1)[0]) as prometheus:
            api, since_s = PrometheusApi(prometheus.url), time.time()
            missing = ("TierserveMetricsMissing", "", "page")
            wait_for(lambda: missing in api.firing(), "the alert on a page that is not there", 60)
            cluster.deploy(config, timeout_s=START_LIMIT_S)
            with site_of(cluster) as site, light_load(site):
                wait_for(lambda: missing not in api.firing(), "that alert clears", 60)
                # An increase is seen from the first zero on only.
                wait_for(lambda: refused_tiers(api) == set(Tier), "zero refusals are recorded", 60)
                yield Watched(site, api, config, since_s)


def short_lines() -> dict[str, Any]:
    """The local profile with a model that thinks, and few places in line."""
    config = load_profile("local-cpu")
    for app in config["applications"]:
        if app["name"] == "web":
            # A stream outlives the start of another engine, however slow the machine is.
            app["args"]["replay"] = {"max_hold_s": 240.0}
        if app["name"] in list(Tier):
            app["args"]["model"] = MICRO_MODEL
            line = {"max_running_sequences": 4, "max_queued_requests": 2}
            app["deployments"][0]["user_config"]["admission"] |= line
    return config


def refused_tiers(api: PrometheusApi) -> set[str]:
    """The tiers whose count of refusals Prometheus has."""
    found = api.values('tierserve_requests_total{status="429"}')
    return {labels["tier"] for labels, _ in found}


@contextmanager
def light_load(site: Site) -> Iterator[None]:
    """A stream after the other to each tier, whatever becomes of them."""
    over = threading.Event()

    def ask_again(tier: Tier) -> None:
        body = {"prompt": "12 + 30 * 2 =", "stream": True, "max_tokens": 150}
        with httpx.Client(base_url=site.url, timeout=60, verify=False) as http:
            while not over.wait(0.3):
                try:
                    http.post(tier.route_prefix, json=body)
                except httpx.HTTPError:
                    continue

    threads = [threading.Thread(target=ask_again, args=[tier]) for tier in Tier]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


async def test_a_flood_of_requests_pages_and_the_page_ends(watched: Watched) -> None:
    page = ("TierserveRefusing", "chat", "page")
    assert page not in watched.api.firing()
    async with client_session() as session:
        url = f"{watched.site.url}/api/chat"
        bodies = [work(f"Story {number}.", 60, stream=False) for number in range(FLOOD)]
        replies = await asyncio.gather(*(ask(session, url, body) for body in bodies))
    assert sum(reply.status == 429 for reply in replies) > FLOOD / 2
    fired_s = wait_for(lambda: page in watched.api.firing(), "the alert on refusals", 60)
    cleared_s = wait_for(lambda: page not in watched.api.firing(), "its end", 180)
    keep_figures(
        "alert: refusing", fired_after_s=round(fired_s, 1), cleared_after_s=round(cleared_s, 1)
    )


def test_invalid_settings_make_a_ticket_until_they_are_corrected(watched: Watched) -> None:
    ticket = ("TierserveSettingsRefused", "reasoning", "ticket")
    assert ticket not in watched.api.firing()
    spoilt = deepcopy(watched.config)
    (reasoning,) = (app for app in spoilt["applications"] if app["name"] == Tier.REASONING)
    reasoning["deployments"][0]["user_config"] = INVALID
    watched.site.cluster.deploy(spoilt, timeout_s=60)
    fired_s = wait_for(lambda: ticket in watched.api.firing(), "the alert on settings", 60)
    watched.site.cluster.deploy(watched.config, timeout_s=60)
    cleared_s = wait_for(lambda: ticket not in watched.api.firing(), "its end", 60)
    keep_figures(
        "alert: settings", fired_after_s=round(fired_s, 1), cleared_after_s=round(cleared_s, 1)
    )


def test_the_death_of_the_only_replica_pages_until_another_is_up(watched: Watched) -> None:
    """Its stream of `/v1` goes on at the next one, which the dashboards show."""
    page = ("TierserveTierDown", "reasoning", "page")
    assert page not in watched.api.firing()
    (replica,) = watched.site.tier(Tier.REASONING)["replicas"]
    body = {"model": "reasoning", "prompt": "12 + 30 * 2 =", "max_tokens": 1500}
    body |= {"ignore_eos": True, "stream": True}
    with watched.site.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if line.startswith("data: "))
        os.kill(replica["pid"], signal.SIGKILL)
        fired_s = wait_for(lambda: page in watched.api.firing(), "the alert on the tier", 60)
        cleared_s = wait_for(lambda: page not in watched.api.firing(), "its end", 180)
        assert "data: [DONE]" in list(lines)
    assert watched.site.tier(Tier.REASONING)["ready"]
    assert watched.site.metrics_now().value("tierserve_replays_total", result="continued") >= 1
    keep_figures(
        "alert: tier down", fired_after_s=round(fired_s, 1), cleared_after_s=round(cleared_s, 1)
    )


def test_every_recorded_series_and_every_query_of_the_dashboards_has_data(
    watched: Watched,
) -> None:
    restarted = "tier:tierserve_replicas_restarted:count30m"
    wait_for(lambda: watched.api.values(restarted), "half an hour, shortened", LONGEST_S + 30)
    asked = list(
        ask_all(watched.api, start_s=watched.since_s, end_s=time.time(), rate_interval="15s")
    )
    assert [each for each in asked if not each.series and each.source not in NOT_EVERYWHERE] == []
    # No GPU here: what is said to need one has nothing to show.
    assert [each for each in asked if each.series and each.source in NOT_EVERYWHERE] == []
    keep_figures("monitoring: queries", with_data=sum(each.series > 0 for each in asked))


def test_the_names_that_are_asked_for_are_on_the_pages_as_recorded(watched: Watched) -> None:
    port = watched.site.cluster.port
    ray_targets = find_ray_targets(port)
    assert ray_targets is not None
    assert ray_targets == watched.site.cluster.run_dir / RAY_TARGETS
    live, recorded = live_names(f"127.0.0.1:{port}", ray_targets), recorded_names()
    used = {asked.metric for _, expr in expressions() for asked in selected(expr)} & set(recorded)
    stale = {
        name: (sorted(recorded[name]), sorted(live.get(name, ())))
        for name in used - set(GPU_NAMES) - set(KEYS_NAMES)
        if recorded[name] != live.get(name)
    }
    assert stale == {}, "record them again: python -m deploy.monitoring names"


def test_after_the_faults_nobody_is_paged(watched: Watched) -> None:
    def paged() -> set[tuple[str, str, str]]:
        return {alert for alert in watched.api.firing() if alert[2] == "page"}

    wait_for(lambda: not paged(), "all pages have ended", 60)
