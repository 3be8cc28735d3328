"""The chat tier with so many replicas on this machine, and what they report of themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from loadtest.client.server_info import tiers_of
from loadtest.simulation.profile import GpuProfile
from serve_app.core.tiers import Tier
from serve_app.local.profiles import load_profile


@dataclass(frozen=True, slots=True)
class Served:
    """`model` runs on vLLM; with a `profile` the fake engine steps as that GPU does, and has a
    prefix cache."""

    model: str
    profile: GpuProfile | None
    slots: int
    max_model_len: int = 4096


def application(served: Served, replicas: int, *, forward: bool) -> dict[str, Any]:
    """deploy/local-cpu.yaml with chat alone."""
    config = load_profile("local-cpu")
    config["applications"] = [app for app in config["applications"] if app["name"] != "reasoning"]
    web, chat = sorted(config["applications"], key=lambda app: app["name"], reverse=True)
    web["args"]["tiers"] = ["chat"]
    engine: dict[str, Any] = {"max_model_len": served.max_model_len}
    if served.profile is not None:
        engine["fake"] = _fake(served.profile)
    else:
        # All replicas compute on one half of the cores: the other is the client's and HAProxy's.
        engine["cpu_slice"] = "0/2"
    chat["args"] |= {"model": served.model, "engine": engine}
    (deployment,) = chat["deployments"]
    deployment["user_config"] = {
        "max_new_tokens": 1024,
        "admission": {
            "max_running_sequences": served.slots,
            "max_queued_requests": 64,
            "max_wait_s": 120,
            "lend_share": 0,
        },
        "prefixes": {"forward": forward},
    }
    deployment["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
    deployment["ray_actor_options"]["num_cpus"] = 0.1
    return config


def _fake(profile: GpuProfile) -> dict[str, Any]:
    # Ray believes in no GPU here, whose type would be the name.
    return {
        "start_s": 0.0,
        "prefix_cache": True,
        "stream_interval": 8,
        "reply_spread": 0.0,
        "cards": {"": profile.fake_engine_figures},
    }


@dataclass(frozen=True, slots=True)
class Seen:
    """One replica at a moment; tokens since its start."""

    running: int
    prompt_tokens: int
    found_tokens: int
    forwards: bool


async def replicas_of(session: aiohttp.ClientSession, url: str) -> Mapping[str, Seen]:
    """Those of chat by name; nothing where the service does not say."""
    tiers = await tiers_of(session, url) or {}
    chat = tiers.get(Tier.CHAT, {})
    forwards = ((chat.get("settings") or {}).get("prefixes") or {}).get("forward", False)
    return {
        each["replica"]: Seen(
            each["running"],
            each["prefix_cache"]["prompt_tokens"],
            each["prefix_cache"]["found_tokens"],
            forwards,
        )
        for each in chat.get("replicas", ())
        if each.get("ready") and not each.get("stale")
    }
