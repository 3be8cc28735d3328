"""The study of prefixes: its conversations, its config, its figures and its table."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from loadtest.__main__ import parse
from loadtest.client.chat import open_session
from loadtest.errors import MeasurementError
from loadtest.simulation.profile import known_profiles
from loadtest.studies.prefixes.cluster import Seen, Served, application, replicas_of
from loadtest.studies.prefixes.conversations import Conversations, Talk, Turn, sentences
from loadtest.studies.prefixes.results import Phases, mean_ratio, over_mean, table
from serve_app.config.tier import tier_args, tier_settings
from serve_app.core.tiers import Tier

TALK = Talk(users=3, turns=3, prompt_tokens=90, more_tokens=9, output_tokens=4, think_s=0.001)
DONE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\ndata: [DONE]\n\n'


@asynccontextmanager
async def answering(status: int = 200, event: Any = None) -> AsyncIterator[tuple[str, list[Any]]]:
    """A service that says `yes`, or the event, and keeps what it is asked."""
    asked: list[Any] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        if status != 200:
            return web.Response(status=status, text="no")
        said = event or {"choices": [{"delta": {"content": "yes"}}]}
        text = b": waiting\n\ndata: " + json.dumps(said).encode() + b"\n\n" + DONE
        return web.Response(body=text, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", asked
    finally:
        await runner.cleanup()


async def talked(url: str, until: int, asked: list[Any]) -> Conversations:
    async with open_session(10.0) as session:
        conversations = Conversations(TALK, session, url, "chat", seed=1)
        running = asyncio.create_task(conversations.run())
        while len(asked) < until and not running.done():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.005)
        conversations.end()
        await running
        return conversations


async def test_each_turn_sends_the_whole_conversation() -> None:
    async with answering() as (url, asked):
        conversations = await talked(url, 40, asked)
    assert len(conversations.turns) == len(asked)
    assert {turn.prompt_tokens for turn in conversations.turns} == {7}
    texts = [json.dumps(body["messages"])[:-1] for body in asked]
    later = [text for text in texts if '"yes"' in text]
    assert later
    assert all(any(text.startswith(other) for other in texts if other != text) for text in later)
    begins = {body["messages"][0]["content"] for body in asked}
    assert len(begins) >= TALK.users


async def test_a_refused_turn_is_counted_and_an_error_ends_the_measurement() -> None:
    full = {"error": {"code": "queue_full"}}
    async with answering(event=full) as (url, asked):
        assert (await talked(url, 3, asked)).refused >= 3
    for status, event in ((500, None), (200, {"error": {"code": "fault"}})):
        async with answering(status, event) as (url, asked):
            with pytest.raises(MeasurementError):
                await talked(url, 1000, asked)


def test_a_prompt_is_about_as_long_as_asked_and_never_the_same() -> None:
    rng = random.Random(0)
    first, second = sentences(rng, 1500), sentences(rng, 1500)
    assert first != second
    assert 1350 < len(first) / 4 < 1700


@pytest.mark.parametrize("profile", [None, known_profiles()["T4"]])
def test_the_config_is_one_that_the_tier_takes(profile: Any) -> None:
    config = application(Served("smollm2", profile, 16), 4, forward=False)
    names = {app["name"]: app for app in config["applications"]}
    assert set(names) == {"web", "chat"}
    args = tier_args(names["chat"]["args"])
    assert (args.engine.fake is not None) is (profile is not None)
    (deployment,) = names["chat"]["deployments"]
    assert not tier_settings(Tier.CHAT, deployment["user_config"]).prefixes.forward
    assert deployment["autoscaling_config"]["max_replicas"] == 4


def a_phase(replicas: int, *, forward: bool, found: int, ttft_s: float) -> Phases:
    phases = Phases(replicas, forward)
    before = {"a": Seen(0, 100, 50, forward), "b": Seen(0, 0, 0, forward)}
    after = {"a": Seen(0, 1100, 50 + found, forward), "b": Seen(0, 1000, found, forward)}
    looks = [{"a": Seen(3, 0, 0, forward), "b": Seen(1, 0, 0, forward)}]
    turns = [Turn(number % 2, 0.0, ttft_s, 1500) for number in range(20)]
    phases.add(turns, 1, before, after, looks)
    return phases


def test_figures_are_those_of_the_phase() -> None:
    phases = a_phase(2, forward=True, found=700, ttft_s=0.1)
    assert phases.hit_rate == 0.7
    assert (phases.most_running, phases.most_tokens) == ([1.5], [1.0])
    assert over_mean([]) == over_mean([0, 0]) == 1.0
    assert mean_ratio([0.1] * 9, [0.2] * 9).value == pytest.approx(0.5)


def test_the_table_compares_with_one_replica_and_with_none_of_it() -> None:
    rows = table(
        [
            a_phase(1, forward=True, found=800, ttft_s=0.1),
            a_phase(2, forward=True, found=760, ttft_s=0.1),
            a_phase(2, forward=False, found=400, ttft_s=0.2),
        ]
    ).splitlines()
    assert len(rows) == 5
    assert "| 0.95 |" in rows[3]
    assert "0.50 (0.50 to 0.50)" in rows[3]
    assert "| 0.50 |" in rows[4]


def test_the_command_has_its_options() -> None:
    options = parse(["prefixes", "--replicas", "2", "--users", "3"])
    assert (options.replicas, options.users, options.model) == ([2], 3, None)


async def test_replicas_are_read_from_the_status_page() -> None:
    replica = {"replica": "a", "ready": True, "running": 2}
    cached = {"prompt_tokens": 9, "found_tokens": 4}
    chat = {
        "tier": "chat",
        "settings": {"prefixes": {"forward": True}},
        "replicas": [
            {**replica, "prefix_cache": cached},
            {"replica": "b", "ready": False},
            {**replica, "replica": "c", "prefix_cache": cached, "stale": True},
        ],
    }

    async def tiers(_: web.Request) -> web.Response:
        return web.json_response({"tiers": [chat]})

    app = web.Application()
    app.router.add_get("/api/tiers", tiers)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with open_session(10.0) as session:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        assert await replicas_of(session, url) == {"a": Seen(2, 9, 4, forwards=True)}
    await runner.cleanup()
