"""The status for those who follow it: one question a second, and the same bytes for all of them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from serve_app.api.follow import FOLLOWED_S, PERIOD_S, StatusFeed
from serve_app.api.gateway import Gateway
from serve_app.api.status import Kept, Report
from serve_app.api.web_app import make_web_app
from serve_app.core.tiers import Tier
from tests.api.loopback import served
from tests.api.test_history import described, observed
from tests.api.web_client import BOTH, FakeTiers
from tests.virtual_time import now_s, virtual


@dataclass
class Asked:
    """The replicas, which take a while to answer; when they were asked."""

    times_s: list[float] = field(default_factory=list[float])
    fails: bool = False

    async def __call__(self) -> list[dict[str, Any]]:
        self.times_s.append(now_s())
        await asyncio.sleep(0.1)
        if self.fails:
            raise ConnectionError
        return [{**entry, "asked": len(self.times_s)} for entry in described(a=observed())]


@dataclass
class CountedTiers(FakeTiers):
    asked: int = 0

    async def reports(self, tier: Tier) -> Sequence[Kept[Report]]:
        self.asked += 1
        return await super().reports(tier)


async def no_upstream() -> str:
    return ""


async def first(events: AsyncGenerator[bytes, None], count: int) -> list[bytes]:
    """As many events; then it is followed no longer."""
    taken = [await anext(events) for _ in range(count)]
    await events.aclose()
    return taken


@virtual
async def test_a_thousand_who_follow_are_one_question_a_second_and_get_the_same_bytes() -> None:
    asked = Asked()
    feed = StatusFeed(asked)
    all_taken = await asyncio.gather(*(first(feed.events(), 4) for _ in range(1000)))
    assert asked.times_s == [0, 1, 2, 3]
    assert all(taken == all_taken[0] for taken in all_taken)
    news = [json.loads(event.removeprefix(b"data: ")) for event in all_taken[0]]
    assert [each["tiers"][0]["asked"] for each in news] == [1, 2, 3, 4]


@virtual
async def test_while_nobody_follows_nobody_is_asked() -> None:
    asked = Asked()
    feed = StatusFeed(asked)
    await first(feed.events(), 2)
    await asyncio.sleep(100)
    assert len(asked.times_s) == 2
    await first(feed.events(), 1)
    assert asked.times_s[2:] == [101.1]


@virtual
async def test_each_sample_of_the_history_comes_once_and_costs_no_question_of_its_own() -> None:
    asked = Asked()
    feed = StatusFeed(asked)
    feed.history.clock_s = lambda: 1000 + now_s()
    feed.history.start()
    events = await first(feed.events(), 14)
    news = [json.loads(event.removeprefix(b"data: ")) for event in events]
    samples = [sample["at_s"] for each in news for sample in each["samples"]]
    assert len(samples) == len(set(samples)) == 3
    assert len(asked.times_s) <= 15


@virtual
async def test_a_slow_follower_misses_events_and_holds_up_nobody() -> None:
    feed = StatusFeed(Asked())
    slow, quick = feed.events(), feed.events()
    await anext(slow)
    assert len(await first(quick, 5)) == 5
    late = json.loads((await anext(slow)).removeprefix(b"data: "))
    assert late["tiers"][0]["asked"] > 5


@virtual
async def test_a_stream_ends_after_a_while_so_that_its_key_is_looked_at_again() -> None:
    feed = StatusFeed(Asked())
    taken = [event async for event in feed.events()]
    assert len(taken) == pytest.approx(FOLLOWED_S, abs=2)
    assert now_s() == pytest.approx(FOLLOWED_S, abs=2)


@virtual
async def test_all_streams_end_when_the_process_is_to_stop() -> None:
    async def until_draining() -> None:
        await asyncio.sleep(3.5)

    feed = StatusFeed(Asked(), until_draining)

    async def follow() -> int:
        return len([event async for event in feed.events()])

    assert await asyncio.gather(follow(), follow()) == [5, 5]
    assert now_s() < 5


@virtual
async def test_who_follows_hears_of_a_question_that_failed_and_the_next_one_is_put() -> None:
    asked = Asked(fails=True)
    feed = StatusFeed(asked)
    with pytest.raises(ConnectionError):
        await first(feed.events(), 1)
    asked.fails = False
    assert len(await first(feed.events(), 1)) == 1


async def test_over_http_who_follows_gets_what_api_tiers_answers_and_who_leaves_is_forgotten() -> (
    None
):
    tiers = CountedTiers()
    app = make_web_app(BOTH, tiers, Gateway(no_upstream, BOTH, 1024, 3.0))
    async with (
        served(app) as url,
        httpx.AsyncClient(base_url=url) as client,
        client.stream("GET", "/api/tiers/events") as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["x-accel-buffering"] == "no"
        lines = stream.aiter_lines()
        news = json.loads((await anext(lines)).removeprefix("data: "))
        assert news["tiers"] == (await client.get("/api/tiers")).json()["tiers"]
    asked = tiers.asked
    await asyncio.sleep(2 * PERIOD_S)
    assert tiers.asked == asked
