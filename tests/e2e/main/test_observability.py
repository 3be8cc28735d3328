"""Status, metrics and logs: what an operator sees of what was asked."""

import json
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier
from serve_app.engine.vllm.patches.registry import PATCHES
from tests.e2e.site import Site, wait_for

SECRET = "zanzibar-quince-1729"
MESSAGES = [{"role": "user", "content": f"{SECRET} says hi"}]
TIER_FIELDS = {
    "tier", "url", "model", "ready", "max_new_tokens", "settings", "status", "message",
    "replicas_running", "replicas_wanted", "running", "lent", "borrowed", "queued",
    "queue_depth", "slots",
    "output_tokens_per_s", "expected_wait_s", "scaling", "replicas",
    "max_queued_requests", "max_model_len", "stale", "report_age_s",
}  # fmt: skip
OWN_FAMILIES = {
    "tierserve_requests", "tierserve_refused", "tierserve_relayed", "tierserve_disconnected",
    "tierserve_borrowed", "tierserve_lent",
    "tierserve_borrowed_sequences", "tierserve_lent_sequences",
    "tierserve_output_tokens", "tierserve_running_sequences", "tierserve_queue_depth",
    "tierserve_slots", "tierserve_queue_wait_seconds", "tierserve_ttft_seconds",
    "tierserve_itl_seconds", "tierserve_e2e_seconds", "tierserve_startup_seconds",
}  # fmt: skip
COUNTED_BY_LABEL = {
    "tierserve_refused", "tierserve_requests", "tierserve_borrowed", "tierserve_lent",
}  # fmt: skip
VLLM_FAMILIES = {
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:generation_tokens",
    "vllm:time_to_first_token_seconds", "vllm:kv_cache_usage_perc",
}  # fmt: skip


def test_health_and_readiness(site: Site) -> None:
    assert site.get("/healthz").json() == {"status": "alive"}
    assert site.get("/readyz").json() == {"status": "ready", "tiers": ["chat", "reasoning"]}
    assert site.get("/").json()["openai_base_url"] == "/v1"


def test_tiers_say_what_they_are_and_how_they_are(site: Site) -> None:
    for tier in Tier:
        entry = site.tier(tier)
        assert set(entry) == TIER_FIELDS
        assert entry["url"] == f"/api/{tier}"
        assert entry["model"] == "smollm2"
        assert entry["max_new_tokens"] == DEFAULT_MAX_NEW_TOKENS[tier]
        assert (entry["status"], entry["ready"]) == ("HEALTHY", True)
        assert (entry["replicas_running"], entry["replicas_wanted"]) == (1, 1)
        assert entry["expected_wait_s"] == 0
        assert entry["slots"] > 1
        assert len(entry["replicas"]) == 1
        phases_s = entry["replicas"][0]["start_phases_s"]
        assert {"process", "import", "configuration", "load", "total"} <= set(phases_s)
        # The CPU starts eager.
        assert "compile" not in phases_s


def test_metrics_of_every_replica_of_every_tier(site: Site) -> None:
    labels: dict[str, set[tuple[str, str]]] = {}
    for family in text_string_to_metric_families(site.metrics_now().text):
        assert family.name not in labels, f"{family.name} comes twice"
        labels[family.name] = {
            (sample.labels.get("tier", ""), sample.labels.get("replica", ""))
            for sample in family.samples
        }
    replicas = {(tier.value, site.tier(tier)["replicas"][0]["replica"]) for tier in Tier}
    assert labels["tierserve_replica_up"] == replicas
    for name in VLLM_FAMILIES | OWN_FAMILIES - COUNTED_BY_LABEL:
        assert labels[name] == replicas, name
    # The edge counts requests; vLLM's own counting would wrap every chunk (ADR 3).
    assert not {name for name in labels if name.startswith("http_")}


def test_every_patch_of_vllm_is_active_in_both_tiers(site: Site) -> None:
    """In the engine's process too; the fast path loses nothing without a word."""
    active = {
        (sample.labels["tier"], sample.labels["patch"]): sample.value
        for family in text_string_to_metric_families(site.metrics_now().text)
        if family.name == "tierserve_vllm_patch_active"
        for sample in family.samples
    }
    assert active == {(tier.value, patch.name): 1.0 for tier in Tier for patch in PATCHES}


def test_metrics_count_what_was_asked(site: Site) -> None:
    def counts() -> dict[str, float]:
        metrics = site.metrics_now()
        named = {
            status: metrics.value(
                "tierserve_requests_total", tier="chat", endpoint="chat.completions", status=status
            )
            for status in ("200", "400")
        }
        return named | {
            "ttft": metrics.value("tierserve_ttft_seconds_count", tier="chat"),
            "waits": metrics.value("tierserve_queue_wait_seconds_count", tier="chat"),
            "tokens": metrics.value("tierserve_output_tokens_total", tier="chat"),
            "vllm": metrics.value("vllm:generation_tokens_total", tier="chat"),
        }

    before = counts()
    for stream in (True, False, True):
        body = {"prompt": "hi", "max_tokens": 5, "ignore_eos": True, "stream": stream}
        assert site.post("/api/chat", body).status_code == 200
    assert site.post("/api/chat", {"prompt": "hi", "n": "x"}).status_code == 400
    added = {name: value - before[name] for name, value in counts().items()}
    assert added == {"200": 3, "400": 1, "ttft": 2, "waits": 3, "tokens": 15, "vllm": 15}


def ask_with_secret(site: Site, request_id: str) -> None:
    """Requests with a text that must not appear in any log; the first has this id."""
    for path, body in (
        ("/api/chat", {"messages": MESSAGES, "max_tokens": 2}),
        ("/api/chat", {"messages": MESSAGES, "max_tokens": 2, "stream": True}),
        ("/api/chat", {"messages": MESSAGES, "max_tokens": 99999}),
        ("/api/chat", {"messages": MESSAGES, "tools": "x"}),
        ("/api/chat", {"messages": MESSAGES, "structured_outputs": {"regex": "(("}}),
        ("/api/chat/tokenize", {"model": "chat", "prompt": SECRET}),
        ("/v1/completions", {"model": "reasoning", "prompt": SECRET, "max_tokens": 2}),
        ("/v1/completions", {"model": "reasoning", "prompt": SECRET * 2000, "max_tokens": 2}),
        ("/v1/responses", {"model": "chat", "input": SECRET, "max_output_tokens": 16}),
        ("/v1/messages", {"model": "chat", "messages": MESSAGES, "max_tokens": 2}),
        ("/v1/messages", {"model": "chat", "messages": MESSAGES, "system": 5, "max_tokens": 2}),
    ):
        site.post(path, body, **{"x-request-id": request_id})
        request_id = f"{request_id}0"


def test_logs_are_json_with_request_ids_and_without_texts(site: Site) -> None:
    asked = "logged-request-1"
    ask_with_secret(site, asked)
    wait_for(lambda: request_line(site, asked) is not None, "the request is in the log")
    line = request_line(site, asked) or {}
    assert line["tier"] == "chat"
    assert line["replica"] == site.tier(Tier.CHAT)["replicas"][0]["replica"]
    assert (line["status"], line["endpoint"], line["level"]) == (200, "chat.completions", "INFO")
    for file, lines in replica_lines(site).items():
        for number, text in enumerate(lines):
            fields = json.loads(text)
            assert {"tier", "replica", "level", "timestamp"} <= fields.keys(), f"{file} {number}"
    files = [file for file in site.cluster.run_dir.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []


def request_line(site: Site, request_id: str) -> dict[str, Any] | None:
    for lines in replica_lines(site).values():
        for text in lines:
            fields = json.loads(text)
            if fields.get("request_id") == request_id:
                return fields
    return None


def replica_lines(site: Site) -> dict[Path, list[str]]:
    """Standard output of the tiers' replicas; Ray itself begins each file with `:` lines."""
    found: dict[Path, list[str]] = {}
    for file in site.cluster.log_dir.glob("worker-*.out"):
        text = file.read_text()
        if ":actor_name:ServeReplica:chat" in text or ":actor_name:ServeReplica:reason" in text:
            whole = text[: text.rfind("\n") + 1].splitlines()
            found[file] = [line for line in whole if not line.startswith(":")]
    assert len(found) >= 2
    return found
