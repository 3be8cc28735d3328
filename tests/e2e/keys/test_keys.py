"""Keys on a running service: who gets in, how soon a change is live, and what operators see."""

import threading
import time

import httpx
import pytest

from serve_app.access.credentials import load_pepper
from serve_app.core.access.access_key import AccessKey
from serve_app.core.tiers import Tier
from tests.e2e.keys.conftest import LIVE_WITHIN_S, KeySite, headers
from tests.e2e.site import assert_in_time, wait_for

WRONG = f"ts-{'a' * 8}-{'b' * 43}"


@pytest.mark.parametrize("key", [None, WRONG, "sk-openai", "ts-"])
def test_without_a_valid_key_each_door_stays_shut_in_its_clients_form(
    key_site: KeySite, key: str | None
) -> None:
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages", "/api/chat/v1/messages"):
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        answer = key_site.site.http.post(path, json=body, headers=headers(key))
        assert answer.status_code == 401, (path, answer.text)
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert (answer.json().get("type") == "error") is ("messages" in path)
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_is_taken_from_either_header_at_either_door(key_site: KeySite) -> None:
    key = key_site.add("both")
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    for path in ("/api/chat/v1/chat/completions", "/v1/chat/completions"):
        for header in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
            assert key_site.site.http.post(path, json=body, headers=header).status_code == 200


def test_health_is_open_and_the_operators_pages_are_not(key_site: KeySite) -> None:
    user, boss = key_site.add("user"), key_site.add("operator", admin=True)
    for path in ("/healthz", "/readyz", "/health", "/version", "/"):
        assert key_site.ask(None, path).status_code == 200
    for path in ("/metrics", "/api/tiers"):
        statuses = [key_site.ask(key, path).status_code for key in (None, user, boss)]
        assert statuses == [401, 403, 200]
        assert httpx.get(key_site.status_url + path, trust_env=False).status_code == 200
    text = key_site.ask(boss, "/metrics").text
    assert 'tierserve_ledger_up{replica="' in text
    assert 'tierserve_keys_refused_total{reason="' in text
    assert boss not in text


def test_a_key_of_one_tier_may_not_use_the_other(key_site: KeySite) -> None:
    key = key_site.add("chatty", tiers=frozenset({Tier.CHAT}))
    assert key_site.chat(key).status_code == 200
    body = {"prompt": "hi", "max_tokens": 5}
    refused = key_site.site.http.post("/api/reasoning", json=body, headers=headers(key))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "tier_not_allowed")


async def test_changes_are_live_within_two_seconds_and_drop_no_request(key_site: KeySite) -> None:
    steady = key_site.add("steady")
    statuses: list[int] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            statuses.append(key_site.chat(steady, 2).status_code)
            time.sleep(0.02)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        await assert_in_time(lambda: come_and_go(key_site), LIVE_WITHIN_S)
    finally:
        done.set()
        asking.join()
    assert set(statuses) == {200}


async def come_and_go(key_site: KeySite) -> float:
    """The longer of the seconds until a new key is known, and until a revoked one is none."""
    name = f"comes-{time.monotonic_ns()}"
    secret = key_site.store.add(AccessKey(name)).reveal()
    known_s = wait_for(lambda: key_site.known_everywhere(secret), "the key is known")
    key_site.store.revoke(name)
    gone_s = wait_for(lambda: key_site.statuses_everywhere(secret) == {401}, "it is none any more")
    return max(known_s, gone_s)


def test_an_expired_key_is_no_key(key_site: KeySite) -> None:
    key = key_site.add("soon")
    assert key_site.chat(key).status_code == 200
    key_site.store.change(AccessKey("soon", expires_at_s=time.time() + 1.0))
    wait_for(lambda: key_site.chat(key).status_code == 401, "the key to expire")


def test_a_stream_of_a_revoked_key_ends_as_it_began(key_site: KeySite) -> None:
    key = key_site.add("leaver")
    body = {"prompt": "hi", "max_tokens": 900, "ignore_eos": True, "stream": True}
    with key_site.site.http.stream("POST", "/api/chat", json=body, headers=headers(key)) as answer:
        lines = answer.iter_lines()
        next(lines)
        key_site.store.revoke("leaver")
        assert "data: [DONE]" in list(lines)
    wait_for(lambda: key_site.chat(key).status_code == 401, "the key to end")


def test_neither_keys_nor_the_pepper_are_in_any_log(key_site: KeySite) -> None:
    key = key_site.add("secretive")
    key_site.chat(key)
    key_site.chat(WRONG)
    # A secret is URL-safe base64 and may hold "-" itself.
    secrets = (
        key.split("-", 2)[2],
        WRONG.split("-", 2)[2],
        load_pepper(key_site.database.address).reveal(),
    )
    for file in key_site.site.cluster.log_dir.rglob("*"):
        if file.is_file():
            text = file.read_text(errors="replace")
            assert not any(secret in text for secret in secrets), file.name
