"""Quotas over two replicas: bursts and kills spend what was allowed, and not a token more."""

import contextlib
import threading
import time
from collections import Counter

import httpx
import psutil
import pytest

from serve_app.core.tiers import Tier
from tests.e2e.keys.conftest import KeySite, headers, total_tokens
from tests.e2e.replicas.faults import is_raylet, kill
from tests.e2e.site import wait_for

CLIENTS = 64
TOKENS = 100
# A request's worst case: its body, what a template may add, and its new tokens (access.py).
MOST = 100 + 128 + 300


def test_a_burst_gets_what_fits_and_nothing_more(key_site: KeySite) -> None:
    allowed = 8 * MOST
    key = key_site.add("burst", tokens_per_day=allowed)
    answers = key_site.burst(key, CLIENTS, TOKENS)
    assert Counter(a.status_code for a in answers).keys() <= {200, 429}
    spent = total_tokens(answers)
    assert spent <= allowed
    # What is left would not hold another one: it was given out to the last request that fits.
    while (answer := key_site.chat(key, TOKENS)).status_code == 200:
        spent += answer.json()["usage"]["total_tokens"]
    assert allowed - MOST < spent <= allowed
    wait_for(lambda: key_site.spent("burst") == spent, "the ledger to count the same")
    refused = answer.json()["error"]
    assert refused["code"] == "insufficient_quota"
    assert int(answer.headers["retry-after"]) > 0


def test_sequential_requests_say_what_is_left(key_site: KeySite) -> None:
    # One more is allowed every ten seconds: long after the last of these, and not long to wait for.
    key = key_site.add("polite", requests_per_minute=6, tokens_per_minute=100_000)
    left: list[int] = []
    while (answer := key_site.chat(key)).status_code == 200:
        left.append(int(answer.headers["x-ratelimit-remaining-requests"]))
    assert len(left) == 6
    assert left == sorted(left, reverse=True)
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    time.sleep(int(answer.headers["retry-after"]))
    assert key_site.chat(key).status_code == 200


def test_no_more_run_at_once_than_a_key_may(key_site: KeySite) -> None:
    key = key_site.add("narrow", max_concurrent=4)
    answers = key_site.burst(key, 16, 900)
    counts = Counter(answer.status_code for answer in answers)
    assert counts[200] >= 4
    assert counts[200] + counts[429] == 16
    wait_for(lambda: key_site.chat(key).status_code == 200, "room again")


def test_who_disconnects_pays_what_was_generated(key_site: KeySite) -> None:
    key = key_site.add("leaves", tokens_per_day=10_000)
    body = {"prompt": "hi", "max_tokens": 900, "ignore_eos": True, "stream": True}
    with key_site.site.http.stream("POST", "/api/chat", json=body, headers=headers(key)) as answer:
        lines = answer.iter_lines()
        for _ in range(20):
            next(lines)
    wait_for(lambda: key_site.spent("leaves") > 0, "what was used to be counted")
    assert 5 < key_site.spent("leaves") < 900


@pytest.mark.parametrize("victim", ["ledger", "replica"])
def test_a_kill_amid_a_burst_overspends_nothing_and_the_service_goes_on(
    key_site: KeySite, victim: str
) -> None:
    allowed = 6 * MOST
    name = f"killed-{victim}"
    key = key_site.add(name, tokens_per_day=allowed)
    answers: list[httpx.Response] = []

    def ask_a_while() -> None:
        while time.monotonic() < until_s:
            with contextlib.suppress(httpx.HTTPError):
                answers.append(key_site.chat(key, TOKENS))
            time.sleep(0.05)

    until_s = time.monotonic() + 6.0
    threads = [threading.Thread(target=ask_a_while) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    kill(process_named(key_site, victim))
    for thread in threads:
        thread.join()
    wait_for(lambda: healthy(key_site), "both replicas again", 180)
    spent = total_tokens(answers)
    assert 0 < spent <= allowed
    # It goes on to the end of the quota, whoever counts now.
    wait_for(lambda: not_served(key_site, key, answers), "the end of the quota", 60)
    assert total_tokens(answers) <= allowed
    other = key_site.add(f"after-{victim}", tokens_per_day=allowed)
    assert key_site.chat(other, TOKENS).status_code == 200


def not_served(site: KeySite, key: str, answers: list[httpx.Response]) -> bool:
    answer = site.chat(key, TOKENS)
    answers.append(answer)
    return answer.status_code == 429


def process_named(site: KeySite, which: str) -> psutil.Process:
    title = {"ledger": "ray::LedgerActor", "replica": "ray::ServeReplica:chat"}[which]
    run_dir = str(site.site.cluster.run_dir)
    (raylet,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if is_raylet(process.info["cmdline"] or [], run_dir)
    )
    for child in raylet.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if (child.cmdline() or [""])[0].startswith(title):
                return child
    raise AssertionError(f"there is no {title}")


def healthy(site: KeySite) -> bool:
    with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
        tiers = httpx.get(f"{site.status_url}/api/tiers", trust_env=False).json()["tiers"]
        chat = next(tier for tier in tiers if tier["tier"] == Tier.CHAT)
        return [replica["ready"] for replica in chat["replicas"]] == [True, True]
    return False
