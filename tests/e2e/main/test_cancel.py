"""A client that goes away frees its place and is aborted in the engine within a second; one that
may come back gets the rest of its stream."""

import asyncio
import json
import re

import httpx
import pytest

from serve_app.core.tiers import Tier
from tests.e2e.client import Reply, ask, client_session, work
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import Site, assert_in_time, wait_for

FREED_WITHIN_S = 1.0


def is_running(site: Site, tier: Tier) -> bool:
    load = site.load()
    return load[f"{tier} running"] > 0 and load[f"{tier} engine running"] > 0


async def leave_while_running(site: Site, path: str, body: dict[str, object], tier: Tier) -> float:
    """Start the request, leave once it runs; seconds until nothing is left of it."""
    async with client_session() as session:
        request = asyncio.create_task(ask(session, site.url + path, body))
        await asyncio.to_thread(wait_for, lambda: is_running(site, tier), "the request runs")
        request.cancel()
        left_s = clock_s()
        await asyncio.to_thread(wait_for, site.is_idle, "its place is free")
        return clock_s() - left_s


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "model", "tier"),
    [
        ("/api/chat", "chat", Tier.CHAT),
        ("/api/reasoning/v1/chat/completions", "reasoning", Tier.REASONING),
        ("/v1/chat/completions", "reasoning", Tier.REASONING),
    ],
)
async def test_leaving_ends_the_work(
    site: Site, path: str, model: str, tier: Tier, stream: bool
) -> None:
    body = work("Count to a thousand.", 900, stream=stream, model=model)

    async def attempt() -> float:
        gone = site.metrics_now().value("tierserve_disconnected_total", tier=tier)
        freed_s = await leave_while_running(site, path, body, tier)
        # A replica counts a request for a moment after its place is free.
        await asyncio.to_thread(
            wait_for,
            lambda: site.metrics_now().value("tierserve_disconnected_total", tier=tier) == gone + 1,
            "it is counted",
        )
        return freed_s

    await assert_in_time(attempt, FREED_WITHIN_S)


async def test_leaving_the_line_never_runs(site: Site) -> None:
    await assert_in_time(lambda: leave_the_line(site), FREED_WITHIN_S)


async def leave_the_line(site: Site) -> float:
    """Seconds until it is empty again."""
    slots = site.tier(Tier.CHAT)["slots"]
    async with client_session() as session:
        url = f"{site.url}/api/chat"
        running = [
            asyncio.create_task(ask(session, url, work(f"{i}", 200, stream=True)))
            for i in range(slots)
        ]
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["running"] == slots, "all slots busy"
        )
        waiting, seen = [], Reply()
        waiting.append(asyncio.create_task(ask(session, url, work("w", 200, stream=True), seen)))
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["queued"] == 1, "one request waits"
        )
        waiting[0].cancel()
        emptied_s = await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["queued"] == 0, "the line is empty"
        )
        for request in running:
            request.cancel()
        await asyncio.to_thread(wait_for, site.is_idle, "nothing is left")
    assert seen.chunks == 0
    return emptied_s


@pytest.mark.parametrize(
    ("path", "streams"),
    [("/v1/chat/completions", "/v1/streams"), ("/api/chat", "/api/chat/streams")],
)
def test_a_stream_that_its_client_loses_twice_is_one_whole_stream(
    site: Site, path: str, streams: str
) -> None:
    body = work("Count to a thousand.", 200, stream=True, model="chat")
    unbroken = site.post(path, body).text
    events: list[str] = []
    with site.http.stream(
        "POST", path, json=body, headers={"x-tierserve-resumable": "1"}
    ) as answer:
        stream_id = answer.headers["x-tierserve-stream-id"]
        events += events_of(answer, 20)
    for most in (60, 1000):
        last = {"last-event-id": str(len(events))}
        with site.http.stream("GET", f"{streams}/{stream_id}", headers=last) as answer:
            assert answer.status_code == 200
            events += events_of(answer, most)
    numbers = [int(event.splitlines()[0].removeprefix("id: ")) for event in events]
    assert numbers == list(range(1, len(events) + 1))
    assert events[-1].endswith("data: [DONE]")
    assert content_of("\n\n".join(events)) == content_of(unbroken)
    assert len(content_of(unbroken)) > 200


def events_of(answer: httpx.Response, most: int) -> list[str]:
    """So many events, or all; the connection is closed then in the middle of the stream."""
    text = ""
    for part in answer.iter_text():
        text += part
        if text.count("\n\nid: ") >= most:
            break
    return [event for event in text.split("\n\n")[:-1] if event.startswith("id: ")]


def content_of(text: str) -> str:
    """The answer's text."""
    chunks = [json.loads(line) for line in re.findall(r"^data: (\{.*)$", text, re.MULTILINE)]
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
    )
