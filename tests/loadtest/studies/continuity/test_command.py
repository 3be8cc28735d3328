"""What the study starts."""

import argparse
from typing import Any

import pytest

from loadtest.servers.ray_nodes import T4
from loadtest.studies.continuity.command import STREAM_LIMIT_S, add_options, study_config
from loadtest.studies.continuity.faults import NODE_OPTIONS, ONE_REPLICA
from serve_app.core.placement.labels import ACCELERATOR_LABEL, matches
from serve_app.core.tiers import Tier


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(words)


def applications(*words: str, replicas: int = 1) -> dict[str, Any]:
    config = study_config(options(*words), "/models/some", replicas)
    return {app["name"]: app for app in config["applications"]}


@pytest.mark.parametrize("replicas", [1, 2])
def test_chat_has_so_many_replicas_with_room_for_all_streams_on_one(replicas: int) -> None:
    started = applications("--streams", "8", replicas=replicas)
    assert {*started} == {"web", Tier.CHAT}
    (deployment,) = started[Tier.CHAT]["deployments"]
    scaling = deployment["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (replicas, replicas)
    admission = deployment["user_config"]["admission"]
    assert admission["max_running_sequences"] >= 8
    assert admission["max_wait_s"] >= STREAM_LIMIT_S


def test_as_served_both_tiers_are_as_the_profile_has_them() -> None:
    started = applications("--as-served")
    assert {*started} == {"web", *Tier}
    for tier in Tier:
        assert started[tier]["args"]["model"] == "/models/some"
        assert "dtype" not in started[tier]["args"]["engine"]
    assert started["web"]["args"] == {}


def test_for_nodes_that_die_each_replica_is_on_one_of_its_own() -> None:
    config = study_config(options(), "/models/some", 2, nodes=True)
    assert config["proxy_location"] == "HeadOnly"
    (chat,) = (app for app in config["applications"] if app["name"] == Tier.CHAT)
    assert chat["deployments"][0]["ray_actor_options"]["resources"] == {ONE_REPLICA: 1}
    # The gateway is on none of them, where there are others.
    (web,) = (app for app in config["applications"] if app["name"] == "web")
    placed = web["deployments"][0]["ray_actor_options"]
    assert not matches({ACCELERATOR_LABEL: T4}, placed["label_selector"])
    assert matches({}, placed["label_selector"])
    assert f"--labels={ACCELERATOR_LABEL}={T4}" in NODE_OPTIONS
