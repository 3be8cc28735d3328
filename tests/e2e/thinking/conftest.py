"""The cluster of this folder: micro-r1 in both tiers, a cache in the reasoning tier, and a web page
that may ask."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from loadtest.evaluation.datasets import Problem, load
from serve_app.core.tiers import Tier
from serve_app.engine.models.model_dir import MICRO_MODEL
from serve_app.local.cluster import LocalCluster
from serve_app.local.profiles import load_profile
from tests.e2e.site import Site, site_of, wait_for

START_LIMIT_S = 300.0
# The origin of a web page that may ask this cluster.
PAGE = "https://chat.example.com"
CACHING = {"answer_cache": {"enabled": True, "max_age_s": 120.0}}


@pytest.fixture(scope="package")
def started_site() -> Iterator[Site]:
    config = load_profile("local-cpu")
    for app in config["applications"]:
        app["args"]["cors_origins"] = [PAGE]
        if app["name"] not in list(Tier):
            continue
        app["args"]["model"] = MICRO_MODEL
        if app["name"] == Tier.REASONING:
            app["deployments"][0]["user_config"] |= CACHING
    with LocalCluster() as cluster:
        cluster.deploy(config, timeout_s=START_LIMIT_S)
        with site_of(cluster) as site:
            wait_for(site.is_idle, "all tiers idle before the first test")
            yield site


@pytest.fixture
def site(started_site: Site) -> Iterator[Site]:
    """Idle again soon after each test."""
    yield started_site
    wait_for(started_site.is_idle, "all tiers idle after the test")


@pytest.fixture
def api(site: Site) -> Iterator[openai.OpenAI]:
    """The openai client for the chat tier, which keeps no answers."""
    base_url = f"{site.url}/api/chat/v1"
    with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="package")
def problems() -> list[Problem]:
    """Problems that the model has not seen."""
    return list(load("micro").problems)


def message(reply: dict[str, Any]) -> dict[str, Any]:
    return reply["choices"][0]["message"]


def thought_of(reply: dict[str, Any]) -> dict[str, Any]:
    """How the one thought of a whole answer, or of the last chunk of a stream, ended."""
    (thought,) = reply["tierserve"]["thoughts"]
    return thought


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The events of a stream."""
    lines = (line.removeprefix("data: ") for line in text.splitlines())
    return [json.loads(line) for line in lines if line.startswith("{")]


def joined(chunks: list[dict[str, Any]], field: str) -> str:
    """A field of the deltas of a stream's one answer."""
    deltas = (choice["delta"] for chunk in chunks for choice in chunk["choices"])
    return "".join(delta.get(field) or "" for delta in deltas)
