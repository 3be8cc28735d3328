"""What clients expect of a base URL, whichever of its spellings they have."""

from typing import Any

import pytest

from serve_app.api.routes import GENERATING, TIER_ROUTES, WEB_ROUTES, meant_path, tier_methods
from serve_app.core.tiers import Tier
from tests.api.asgi import FakeEngine, answers, call
from tests.api.test_gateway import echo, passing_to
from tests.api.web_client import BOTH, FakeTiers, a_client, a_replica
from tests.builders import an_edge
from tests.virtual_time import run_virtual

TOKENIZING = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1//models", "/v1/models"),
        ("//v1///models", "/v1/models"),
        ("/models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("/models/org/model", "/v1/models/org/model"),
        ("/v1/v1/models/chat", "/v1/models/chat"),
        ("/chat/completions", "/v1/chat/completions"),
        ("//chat//completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/ping", "/health"),
        ("/", "/"),
        ("//", "/"),
        ("/modelsx", "/modelsx"),
        ("/v1/tokenize", "/tokenize"),
        ("/v1/health", "/v1/health"),
    ],
)
def test_a_path_means_a_route_of_the_table(given: str, meant: str) -> None:
    assert meant_path(given, WEB_ROUTES) == meant


def test_no_other_spelling_hides_a_route_of_its_own() -> None:
    for routes in (TIER_ROUTES, WEB_ROUTES):
        own = {route.path for route in routes}
        others = [other for route in routes for other in route.also]
        assert not own & {*others}
        by_method = [(route.method, other) for route in routes for other in route.also]
        assert len(by_method) == len({*by_method})


@pytest.mark.parametrize("path", [*GENERATING, *TOKENIZING])
@pytest.mark.parametrize("spelt", ["{}", "/v1{}", "/{}"])
async def test_each_spelling_goes_to_the_tier_that_the_model_names(path: str, spelt: str) -> None:
    async with passing_to(echo) as client:
        answer = await client.post(f"http://web{spelt.format(path)}", json={"model": "reasoning"})
        short = await client.post(path.removeprefix("/v1"), json={})
    assert answer.json()["path"] == f"/api/reasoning{path}"
    assert short.json()["path"] == f"/api/chat{path}"


@pytest.mark.parametrize("path", ["/chat/completions", "/v1//chat/completions", "/v1/v1/messages"])
def test_a_tiers_own_base_url_has_the_same_spellings(path: str) -> None:
    engine = FakeEngine(answers({"choices": []}))
    made = run_virtual(call(an_edge(engine), path, {"messages": []}))
    assert made.status == 200
    assert engine.scopes[0]["path"] == f"/api/chat{meant_path(path, TIER_ROUTES)}"
    assert tier_methods(meant_path(path, TIER_ROUTES)) == "POST"


async def test_health_is_whether_any_tier_answers() -> None:
    half = {Tier.CHAT: [a_replica()], Tier.REASONING: [a_replica(ready=False)]}
    none: dict[Tier, list[dict[str, Any]]] = {tier: [] for tier in BOTH}
    for replicas, status in ((half, 200), (none, 503)):
        async with a_client(FakeTiers(replicas)) as client:
            for path in ("/health", "/ping"):
                answer = await client.get(path)
                assert answer.status_code == status
        if status == 200:
            assert answer.json() == {"status": "ok", "tiers": ["chat"]}
        else:
            assert answer.headers["retry-after"]


async def test_the_versions_of_both_are_reported() -> None:
    async with a_client() as client:
        versions = (await client.get("/version")).json()
    assert set(versions) == {"version", "vllm"}
    assert versions["version"]


async def test_a_browser_gets_an_icon_and_no_error() -> None:
    async with a_client() as client:
        icon = await client.get("/favicon.ico")
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")
    assert icon.text.startswith("<svg")


# --- models


async def test_each_model_has_its_context_and_its_tiers_limits() -> None:
    settings = {"max_new_tokens": 2048, "max_body_bytes": 4096, "limits": {"when_above": "refuse"}}
    replicas = {
        Tier.CHAT: [a_replica(), a_replica(replica="r2")],
        Tier.REASONING: [a_replica(settings=settings, max_model_len=8192)],
    }
    async with a_client(FakeTiers(replicas)) as client:
        chat, reasoning, served = (await client.get("/v1/models")).json()["data"]
        assert (await client.get("/models/reasoning")).json() == reasoning
        assert (await client.get("/v1/models/")).json()["data"] == [chat, reasoning, served]
    assert (chat["max_model_len"], chat["root"]) == (4096, "org/model")
    assert chat["limits"] == {
        "tier": "chat",
        "max_new_tokens": 1024,
        "when_above": "lower",
        "max_body_bytes": None,
        "slots": 16,
        "max_queued_requests": 8,
    }
    assert (reasoning["max_model_len"], reasoning["limits"]["when_above"]) == (8192, "refuse")
    assert served == {**chat, "id": "org/model"}


async def test_what_no_replica_has_said_is_null_and_not_zero() -> None:
    silent: dict[Tier, list[dict[str, Any]]] = {tier: [] for tier in BOTH}
    async with a_client(FakeTiers(silent, running=1)) as client:
        chat, _ = (await client.get("/v1/models")).json()["data"]
    assert (chat["max_model_len"], chat["limits"]["slots"]) == (None, None)
    assert chat["limits"]["when_above"] is None
