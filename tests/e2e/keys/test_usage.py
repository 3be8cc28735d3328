"""Usage by key over two replicas: the sums are what the clients were given."""

import csv
import io
import json
from collections import Counter
from typing import Any

import httpx

from tests.e2e.keys.conftest import KeySite, headers
from tests.e2e.site import Metrics, wait_for

REQUESTS = 12
COUNTED = ("requests", "prompt_tokens", "reasoning_tokens", "answer_tokens")


def usage(key_site: KeySite, key: str, **params: str) -> dict[str, Any]:
    answer = key_site.site.http.get("/api/usage", params=params, headers=headers(key))
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask(key_site: KeySite, key: str, number: int) -> tuple[str, dict[str, int]]:
    """The tier, and the usage that the answer has: of streams, whole answers, and both tiers."""
    tier = "reasoning" if number % 3 == 0 else "chat"
    body = {"model": tier, "prompt": f"number {number}", "max_tokens": 5 + number}
    if number % 2:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = key_site.site.http.post("/v1/completions", json=body, headers=headers(key))
    assert answer.status_code == 200, answer.text
    if number % 2:
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        return tier, next(
            event["usage"] for event in map(json.loads, reversed(events)) if event.get("usage")
        )
    return tier, answer.json()["usage"]


def test_usage_is_the_sum_of_what_the_answers_said(key_site: KeySite) -> None:
    key, admin = key_site.add("counted"), key_site.add("auditor", admin=True)
    said: dict[str, Counter[str]] = {"chat": Counter(), "reasoning": Counter()}
    for number in range(REQUESTS):
        tier, reported = ask(key_site, key, number)
        said[tier] += Counter(
            requests=1, prompt=reported["prompt_tokens"], made=reported["completion_tokens"]
        )

    def counted() -> dict[str, Counter[str]]:
        return {
            row["tier"]: Counter(
                requests=row["requests"],
                prompt=row["prompt_tokens"],
                made=row["reasoning_tokens"] + row["answer_tokens"],
            )
            for row in usage(key_site, key, group_by="tier")["data"]
        }

    wait_for(lambda: counted() == said, "the ledger to count what the answers said")
    own, every = usage(key_site, key), usage(key_site, admin)
    assert {row["key"] for row in own["data"]} == {"counted"}
    assert [row for row in every["data"] if row["key"] == "counted"] == own["data"]
    assert own["total"]["gpu_s"] > 0
    text = key_site.site.http.get(
        "/api/usage", params={"format": "csv", "group_by": ""}, headers=headers(key)
    ).text
    (row,) = csv.DictReader(io.StringIO(text))
    assert {name: int(row[name]) for name in COUNTED} == {
        name: own["total"][name] for name in COUNTED
    }


def test_the_metrics_have_the_same_by_the_name_of_the_key(key_site: KeySite) -> None:
    key = key_site.add("metered", tokens_per_day=1000)
    reported = key_site.chat(key, tokens=40).json()["usage"]

    def value(name: str, **labels: str) -> float:
        page = Metrics(httpx.get(f"{key_site.status_url}/metrics").text)
        return page.value(f"tierserve_key_{name}", key="metered", **labels)

    wait_for(lambda: value("requests_total", tier="chat") == 1, "the request is counted")
    assert value("tokens_total") == reported["total_tokens"]
    assert value("tokens_total", kind="prompt") == reported["prompt_tokens"]
    assert value("day_tokens_used_ratio") == reported["total_tokens"] / 1000
    assert key not in httpx.get(f"{key_site.status_url}/metrics").text
