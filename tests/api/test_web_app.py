"""The web application: health, status, models and metrics of all tiers."""

from collections.abc import Sequence
from typing import Any

from serve_app.api.status import Kept, Report
from serve_app.core.tiers import Tier
from tests.api.metrics_text import exposition
from tests.api.web_client import BOTH, FakeTiers, a_client, a_replica


async def test_healthz_says_alive_and_the_index_names_the_routes() -> None:
    async with a_client() as client:
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        assert (await client.get("/")).json()["tiers"] == ["/api/chat", "/api/reasoning"]


async def test_readyz_is_200_only_when_every_tier_can_answer() -> None:
    async with a_client() as client:
        assert (await client.get("/readyz")).status_code == 200
    starting = {Tier.CHAT: [a_replica()], Tier.REASONING: [a_replica(ready=False)]}
    gone: dict[Tier, list[dict[str, Any]]] = {Tier.CHAT: [], Tier.REASONING: []}
    for replicas, missing in ((starting, "reasoning"), (gone, "chat, reasoning")):
        async with a_client(FakeTiers(replicas)) as client:
            answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == f"No replica answers in: {missing}."
        assert answer.headers["retry-after"]


async def test_one_ready_replica_is_enough() -> None:
    replicas = {tier: [a_replica(ready=False), a_replica()] for tier in BOTH}
    async with a_client(FakeTiers(replicas)) as client:
        assert (await client.get("/readyz")).status_code == 200


async def test_api_tiers_says_what_each_tier_is_and_how_it_is_now() -> None:
    replicas = {
        Tier.CHAT: [a_replica(), a_replica(replica="r2", running=3, expected_wait_s=0.5)],
        Tier.REASONING: [],
    }
    async with a_client(FakeTiers(replicas)) as client:
        chat, reasoning = (await client.get("/api/tiers")).json()["tiers"]
    assert (chat["tier"], chat["url"], chat["model"]) == ("chat", "/api/chat", "org/model")
    assert (chat["replicas_running"], chat["replicas_wanted"]) == (2, 3)
    assert (chat["running"], chat["queued"], chat["slots"]) == (5, 2, 16)
    assert (chat["output_tokens_per_s"], chat["expected_wait_s"]) == (100.0, 0.5)
    assert (chat["max_new_tokens"], chat["ready"]) == (1024, True)
    assert [replica["replica"] for replica in chat["replicas"]] == ["r1", "r2"]
    assert "settings" not in chat["replicas"][0]
    assert (reasoning["ready"], reasoning["running"], reasoning["expected_wait_s"]) == (
        False,
        0,
        None,
    )


async def test_who_takes_an_older_answer_asks_no_replica_again() -> None:
    tiers = FakeTiers()
    async with a_client(tiers) as client:
        for running, asked, shown in ((2, "0", 2), (5, "60", 2), (5, "", 5), (7, "60", 5)):
            tiers.replicas = {tier: [a_replica(running=running)] for tier in BOTH}
            answer = await client.get("/api/tiers", params={"max_age_s": asked} if asked else {})
            assert answer.json()["tiers"][0]["running"] == shown
        for odd in ("young", "nan", "inf", "-1"):
            refused = await client.get("/api/tiers", params={"max_age_s": odd})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_age_s")


async def test_a_tier_whose_replicas_are_late_is_as_it_was_and_says_so() -> None:
    async with a_client(FakeTiers(late_s=4.2)) as client:
        chat, _ = (await client.get("/api/tiers")).json()["tiers"]
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/health")).status_code == 200
    assert (chat["running"], chat["slots"], chat["ready"]) == (2, 8, True)
    assert (chat["stale"], chat["report_age_s"]) == (True, 4.2)
    assert (chat["replicas"][0]["stale"], chat["replicas"][0]["report_age_s"]) == (True, 4.2)


async def test_a_tier_of_which_nothing_is_known_has_null_and_one_without_replicas_zero() -> None:
    silent: dict[Tier, list[dict[str, Any]]] = {tier: [] for tier in BOTH}
    for running, figure in ((1, None), (0, 0)):
        async with a_client(FakeTiers(silent, running=running)) as client:
            chat, _ = (await client.get("/api/tiers")).json()["tiers"]
        for name in ("running", "queued", "slots", "output_tokens_per_s"):
            assert chat[name] == figure
        assert (chat["stale"], chat["report_age_s"]) == (False, None)


async def test_the_models_are_the_tiers_and_the_served_model() -> None:
    async with a_client() as client:
        listed = (await client.get("/v1/models")).json()
        one = await client.get("/v1/models/org/model")
        none = await client.get("/v1/models/nothing")
    assert [model["id"] for model in listed["data"]] == ["chat", "reasoning", "org/model"]
    assert one.json()["id"] == "org/model"
    assert (none.status_code, none.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_model_says_what_a_request_gets_that_leaves_it_out() -> None:
    settings = {"max_new_tokens": 1024, "sampling": {"temperature": 0.6}, "tasks": {"math": {}}}
    known = {tier: [a_replica(settings=settings, reasons=True)] for tier in BOTH}
    silent: dict[Tier, list[dict[str, Any]]] = {tier: [] for tier in BOTH}
    for replicas, ready, defaults in (
        (known, True, {"reasons": True, "tasks": {"math": {}}, "sampling": {"temperature": 0.6}}),
        (silent, False, {"reasons": None, "tasks": None, "sampling": None}),
    ):
        async with a_client(FakeTiers(replicas)) as client:
            model = (await client.get("/v1/models/chat")).json()
        assert model["ready"] is ready
        assert model["defaults"] == {"thinking": None, **defaults}


async def test_unknown_routes_and_methods_get_openais_error_form() -> None:
    async with a_client() as client:
        missing, wrong = await client.get("/nothing"), await client.get("/v1/chat/completions")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


async def test_a_bug_of_our_own_is_a_500_in_openais_form_too() -> None:
    class Broken(FakeTiers):
        async def reports(self, tier: Tier) -> Sequence[Kept[Report]]:
            raise RuntimeError("boom")

    async with a_client(Broken()) as client:
        answer = await client.get("/api/tiers")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "boom" not in answer.text


async def test_every_answer_carries_a_request_id() -> None:
    async with a_client() as client:
        for path in ("/healthz", "/nothing", "/api/tiers", "/metrics"):
            assert len((await client.get(path)).headers["x-request-id"]) == 32


async def test_the_metrics_of_all_replicas_come_out_of_one_page() -> None:
    texts = {Tier.CHAT: {"a": exposition(2, 0.1)}, Tier.REASONING: {"b": exposition(5, 0.3)}}
    gateways = {"g": "# TYPE tierserve_journal_bytes gauge\ntierserve_journal_bytes 7.0\n"}
    async with a_client(FakeTiers(texts=texts, gateway_texts=gateways)) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'tierserve_journal_bytes{gateway="g"} 7.0' in answer.text
    assert 'tierserve_replica_up{replica="a",tier="chat"} 1.0' in answer.text
    assert answer.text.count("# TYPE tierserve_requests_total counter") == 1
