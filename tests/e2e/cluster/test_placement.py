"""Both tiers' replicas are placed on the GPU whose token costs least, one on each, and on the other
type when none of it is left."""

import json
import subprocess
import sys
from typing import Any

import psutil
import pytest

from loadtest.servers.ray_nodes import RTX_4090, T4
from serve_app.core.placement.hardware import hardware_for
from serve_app.core.placement.labels import ACCELERATOR_LABEL
from serve_app.core.tiers import Tier
from tests.e2e.cluster.mixed import (
    accelerator_types,
    await_replicas,
    deploy,
    gateway_labels,
    gpus,
    mixed_config,
    ready,
)
from tests.e2e.site import Site, wait_for


@pytest.mark.parametrize(
    ("chat", "reasoning", "chat_on", "reasoning_on"),
    [
        (1, 1, [RTX_4090], [RTX_4090]),
        (2, 1, [RTX_4090, T4], [RTX_4090]),
        (1, 2, [RTX_4090], [RTX_4090, T4]),
    ],
)
def test_each_tier_gets_the_type_whose_token_costs_least(
    site: Site, chat: int, reasoning: int, chat_on: list[str], reasoning_on: list[str]
) -> None:
    deploy(site, mixed_config(chat=(chat, chat), reasoning=(reasoning, reasoning)))
    await_replicas(site, chat=chat, reasoning=reasoning)
    assert accelerator_types(site, Tier.CHAT) == chat_on
    assert accelerator_types(site, Tier.REASONING) == reasoning_on
    taken = gpus(site)
    assert len(taken) == len(set(taken)) == chat + reasoning, "one replica on each GPU"
    for tier in Tier:
        for replica in ready(site, tier):
            assert replica["engine"] == "fake"
            assert (replica["times_token_cost"] > 2) is (replica["accelerator_type"] == T4)
            assert replica["hardware"] == hardware_for(replica["accelerator_type"]).name
            mapped = [area.path for area in psutil.Process(replica["pid"]).memory_maps()]
            assert not [path for path in mapped if "/torch/" in path], "its start must be quick"


def test_the_gateway_runs_on_the_node_without_a_gpu(site: Site) -> None:
    deploy(site, mixed_config())
    await_replicas(site, chat=1, reasoning=1)
    wait_for(lambda: len(gateway_labels(site)) == 1, "one gateway runs")
    (labels,) = gateway_labels(site)
    assert ACCELERATOR_LABEL not in labels, labels


def test_a_replica_waits_while_every_gpu_is_taken(site: Site) -> None:
    deploy(site, mixed_config(chat=(3, 3)))
    await_replicas(site, chat=2, reasoning=1)
    wait_for(lambda: site.tier(Tier.CHAT)["replicas_wanted"] == 3, "a third one is wanted")
    assert accelerator_types(site, Tier.CHAT) == [RTX_4090, T4]
    assert accelerator_types(site, Tier.REASONING) == [RTX_4090]
    assert site.get("/readyz").status_code == 200
    report: dict[str, Any] = {}

    def is_reported() -> bool:
        # What a node has free comes with Ray's next report of its resources.
        report.update(doctor(site))
        return "gpu-taken" in [finding["code"] for finding in report["findings"]]

    wait_for(is_reported, "the doctor reports why it waits")
    assert report["status"] == "problems"
    (chat,) = (tier for tier in report["tiers"] if tier["name"] == "chat")
    assert (chat["replicas_wanted"], chat["replicas_placed"]) == (3, 2)
    (finding,) = report["findings"]
    assert (finding["code"], finding["tier"]) == ("gpu-taken", "chat")
    assert "1 replica of chat cannot be placed" in finding["sentence"]
    assert "is taken" in finding["sentence"]
    assert all(held in finding["sentence"] for held in ("chat (2)", "reasoning (1)"))
    deploy(site, mixed_config())
    wait_for(lambda: site.tier(Tier.CHAT)["replicas_wanted"] == 1, "it is no longer wanted")
    await_replicas(site, chat=1, reasoning=1)
    assert accelerator_types(site, Tier.CHAT) == [RTX_4090], "the dearer one is given back"


def doctor(site: Site) -> dict[str, Any]:
    """`python -m serve_app doctor --json`, as an operator of this cluster calls it."""
    command = [sys.executable, "-m", "serve_app", "doctor", "--json"]
    environment = site.cluster.client_env
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode in (0, 1), answer.stderr
    return json.loads(answer.stdout)
