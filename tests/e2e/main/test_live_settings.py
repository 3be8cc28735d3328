"""Settings change through Serve's `user_config` with no restart and no request dropped."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serve_app.core.tiers import Tier
from serve_app.local.profiles import load_profile
from tests.e2e.client import Reply, ask, client_session, work
from tests.e2e.site import Site, wait_for

NARROW = {
    "max_new_tokens": 300,
    "admission": {
        "max_running_sequences": 2,
        "max_queued_requests": 1,
        # What earlier tests taught of the drain must not refuse before the line is full.
        "max_wait_s": 120,
        "heartbeat_s": 0.2,
    },
}
INVALID = {"max_new_tokens": 7, "admission": {"max_wait_s": -1}}

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def change(site: Site) -> Iterator[Change]:
    """Deploys the profile with another `user_config` for chat; afterwards its own again."""
    own = load_profile("local-cpu")
    deployed = next(app for app in own["applications"] if app["name"] == "chat")["deployments"][0]
    original = deployed["user_config"]

    def deploy(user_config: dict[str, Any]) -> None:
        deployed["user_config"] = user_config
        site.cluster.deploy(own, timeout_s=60)

    yield deploy
    deploy(original)
    wait_for(lambda: chat_settings(site)["max_new_tokens"] == 1024, "the original settings")
    wait_for(lambda: replica(site)["settings_error"] is None, "no refused settings")


def chat_settings(site: Site) -> dict[str, Any]:
    return site.tier(Tier.CHAT)["settings"]


def replica(site: Site) -> dict[str, Any]:
    (only,) = site.tier(Tier.CHAT)["replicas"]
    return only


async def test_new_settings_apply_while_a_stream_runs(site: Site, change: Change) -> None:
    pid = replica(site)["pid"]
    async with client_session() as session:
        url = f"{site.url}/api/chat"
        stream = asyncio.create_task(ask(session, url, work("Go on.", 1000, stream=True)))
        await asyncio.to_thread(wait_for, lambda: replica(site)["running"] == 1, "a stream runs")
        await asyncio.to_thread(change, NARROW)
        await asyncio.to_thread(
            wait_for, lambda: chat_settings(site)["max_new_tokens"] == 300, "the new settings"
        )
        assert not stream.done(), "the stream must span the change"
        assert replica(site)["pid"] == pid
        refused = await ask(session, url, work("x", 301, stream=False))
        assert (refused.status, refused.error["param"]) == (400, "max_tokens")
        assert (await stream).served
        await assert_line_is_two_and_one(site)


async def assert_line_is_two_and_one(site: Site) -> None:
    """Two run, one waits with heartbeats, one is refused: streams and whole answers alike."""
    async with client_session() as session:
        url = f"{site.url}/api/chat"
        first = [
            asyncio.create_task(ask(session, url, work(f"{i}", 250, stream=True))) for i in range(2)
        ]
        await asyncio.to_thread(wait_for, lambda: replica(site)["running"] == 2, "two run")
        waiting = asyncio.create_task(ask(session, url, work("third", 4, stream=True)))
        await asyncio.to_thread(wait_for, lambda: replica(site)["queued"] == 1, "one waits")
        for stream in (True, False):
            refused = await ask(session, url, work("fourth", 4, stream=stream))
            assert refused.status == 429
            assert refused.error["code"] == "queue_full"
            assert "1 requests are ahead" in refused.error["message"]
        assert all(reply.served for reply in await asyncio.gather(*first))
        assert_waited_with_heartbeats(await waiting)


def assert_waited_with_heartbeats(reply: Reply) -> None:
    assert reply.served
    assert reply.heartbeats >= 1
    assert reply.text.startswith(": waiting, 0 ahead\n\n")
    # The head of the stream comes with the first heartbeat, long before the first token.
    assert reply.headers_s < (reply.first_token_s or 0)


def test_invalid_settings_are_refused_as_a_whole(site: Site, change: Change) -> None:
    pid, before = replica(site)["pid"], chat_settings(site)
    refused = site.metrics_now().value("tierserve_settings_refused_total", tier="chat")
    change(INVALID)
    wait_for(lambda: replica(site)["settings_error"], "the refusal shows")
    assert "max_wait_s" in replica(site)["settings_error"]
    assert chat_settings(site) == before
    assert replica(site)["pid"] == pid
    assert site.get("/readyz").status_code == 200
    assert site.post("/api/chat", {"prompt": "hi", "max_tokens": 20}).status_code == 200
    now = site.metrics_now().value("tierserve_settings_refused_total", tier="chat")
    assert now == refused + 1
