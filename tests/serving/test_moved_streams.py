"""Streams of `/v1` whose replicas are killed, drained, or lose their engines: gateway, edges and
fake engines as they are, in one process. An engine that was stopped for a while has made up for it
a moment later: what breaks a stream comes seconds before its end."""

import asyncio
import json
import re
from typing import Any

import pytest

from tests.api.test_forwarding import until
from tests.builders import count
from tests.serving.cluster_in_process import Cluster, Replica, a_cluster


def events_of(text: str) -> list[str]:
    """Without comments, the time, and the word that it has moved."""
    events = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    plain = [re.sub(r'"created":\d+', "", event) for event in events]
    return [re.sub(r',"tierserve":\{"replayed":\d+\}', "", event) for event in plain]


def replayed_in(text: str) -> int:
    found = re.search(r'"tierserve":\{"replayed":(\d+)\}', text)
    return 0 if found is None else int(found[1])


async def running_one(cluster: Cluster) -> Replica:
    await until(lambda: any(replica.up and replica.running for replica in cluster.replicas))
    return next(replica for replica in cluster.replicas if replica.up and replica.running)


SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"max_tokens": 40, "ignore_eos": True}),
    ("/v1/chat/completions", {"max_tokens": 40, "ignore_eos": True, "n": 3}),
    (
        "/v1/chat/completions",
        {"max_tokens": 60, "stream_options": {"include_usage": True}, "ignore_eos": True},
    ),
    ("/v1/completions", {"max_tokens": 30, "prompt": ["a", "b"], "ignore_eos": True}),
]


@pytest.mark.parametrize(("path", "payload"), SHAPES)
async def test_a_stream_is_the_same_wherever_its_replicas_are_killed(
    path: str, payload: dict[str, Any]
) -> None:
    async with a_cluster(speed=3.0) as cluster:
        unbroken = await cluster.stream(path, **payload)
        assert replayed_in(unbroken) == 0
        moved = 0
        for pause_s in (0.0, 0.02, 0.03, 0.05, 0.08, 0.1):
            # A replica counts a stream for a moment after its client has all of it.
            await cluster.nothing_runs()
            moving = asyncio.create_task(cluster.stream(path, **payload))
            running = await running_one(cluster)
            await asyncio.sleep(pause_s)
            await running.kill()
            text = await moving
            assert events_of(text) == events_of(unbroken)
            created = set(re.findall(r'"created":(\d+)', text))
            assert len(created) == 1
            moved += replayed_in(text)
            await cluster.start_replica()
        assert moved >= 3
        for replica in cluster.replicas:
            assert count(replica.tier.edge, "replay_mismatches_total") == 0


async def test_a_stream_that_loses_two_replicas_goes_on_at_the_third() -> None:
    async with a_cluster(3, speed=4.0, max_times=2) as cluster:
        payload = {"max_tokens": 600, "ignore_eos": True}
        unbroken = await cluster.stream(**payload)
        await cluster.nothing_runs()
        moving = asyncio.create_task(cluster.stream(**payload))
        await (await running_one(cluster)).kill()
        await running_one(cluster)
        await asyncio.sleep(0.1)
        # The gateway gives up after two quick deaths; a drain's end is none.
        second = await running_one(cluster)
        draining = asyncio.create_task(second.tier.drain(60))
        text = await moving
        draining.cancel()
        assert events_of(text) == events_of(unbroken)
        assert replayed_in(text) == 2


async def test_an_engine_that_dies_in_a_living_process_loses_no_stream() -> None:
    async with a_cluster(speed=4.0) as cluster:
        payload = {"max_tokens": 600, "ignore_eos": True}
        unbroken = await cluster.stream(**payload)
        await cluster.nothing_runs()
        first, second = cluster.replicas
        moving = [asyncio.create_task(cluster.stream(**payload))]
        await until(lambda: first.running or second.running)
        # Beside it the other replica is chosen, and then either of them.
        moving += [asyncio.create_task(cluster.stream(**payload)) for _ in range(3)]
        await until(lambda: first.running and second.running)
        await asyncio.sleep(0.1)
        first.up = False
        first.tier.engine.shutdown()
        await until(lambda: first.tier.engine.dead)
        assert first.tier.engine_died() > 0
        for text in await asyncio.gather(*moving):
            assert events_of(text) == events_of(unbroken)
        await until(
            lambda: count(first.tier.edge, "left_streams_total", reason="engine_stopped") > 0
        )
        assert count(second.tier.edge, "resumed_streams_total") > 0


async def test_a_drain_with_room_elsewhere_takes_a_moment_and_cuts_nothing() -> None:
    async with a_cluster(1, slots=16, speed=1.0) as cluster:
        payload = {"max_tokens": 250, "ignore_eos": True}
        moving = [asyncio.create_task(cluster.stream(**payload)) for _ in range(16)]
        (first,) = cluster.replicas
        await until(lambda: first.running == 16)
        await asyncio.sleep(0.2)
        second = await cluster.start_replica()
        first.up = False
        draining = asyncio.create_task(first.tier.drain(60))
        await until(lambda: not first.running)
        # None has ended here, or has waited for another offer.
        assert (second.running, cluster.replays("not_handed_over")) == (16, 0)
        texts = await asyncio.gather(*moving)
        draining.cancel()
        assert len({json.dumps(events_of(text)) for text in texts}) == 1
        assert events_of(texts[0])[-1] == "data: [DONE]"
        assert {replayed_in(text) for text in texts} == {1}
        assert cluster.replays("handed_over") == 16
        # A replica counts a stream for a moment after its client has all of it.
        await until(
            lambda: count(first.tier.edge, "left_streams_total", reason="handed_over") == 16
        )
        await until(lambda: count(second.tier.edge, "requests_total", status="200") == 16)
        assert count(first.tier.edge, "requests_total") == 0


async def test_a_drain_without_room_elsewhere_lets_streams_run_on() -> None:
    async with a_cluster(2, slots=2, speed=1.5) as cluster:
        # They outlast the second offer: of the first one those are left out that have sent nothing.
        payload = {"max_tokens": 1000, "ignore_eos": True}
        first, second = cluster.replicas
        moving: list[asyncio.Task[str]] = []
        for number in range(1, 5):
            moving.append(asyncio.create_task(cluster.stream(**payload)))
            await until(lambda number=number: first.running + second.running == number)
        assert first.running == second.running == 2
        first.up = False
        draining = asyncio.create_task(first.tier.drain(60))
        texts = await asyncio.gather(*moving)
        draining.cancel()
        assert len({json.dumps(events_of(text)) for text in texts}) == 1
        assert cluster.replays("not_handed_over") > 0
        assert cluster.replays("given_up") == 0


async def test_the_stream_of_a_drain_that_is_over_goes_on_too() -> None:
    async with a_cluster(1, speed=2.0) as cluster:
        payload = {"max_tokens": 300, "ignore_eos": True}
        moving = asyncio.create_task(cluster.stream(**payload))
        (first,) = cluster.replicas
        await until(lambda: first.running)
        await asyncio.sleep(0.3)
        # Nobody else is up, and then its time is over.
        first.up = False
        assert await first.tier.drain(0.3) == 1
        await cluster.start_replica()
        text = await moving
        assert events_of(text)[-1] == "data: [DONE]"
        assert replayed_in(text) == 1


async def test_a_forwarded_stream_survives_the_replica_that_runs_it() -> None:
    async with a_cluster(1, slots=1, speed=4.0) as cluster:
        (far,) = cluster.replicas
        near = await cluster.start_replica(forwards_to=(far.url,))
        far.up = False  # for the proxy
        filling = asyncio.create_task(cluster.stream(max_tokens=600, ignore_eos=True))
        await until(lambda: near.running)
        payload = {"max_tokens": 600, "ignore_eos": True}
        moving = asyncio.create_task(cluster.stream(**payload))
        await until(lambda: far.running)
        await asyncio.sleep(0.2)
        await far.kill()
        text = await moving
        await filling
        assert replayed_in(text) == 1
        assert events_of(text) == events_of(await cluster.stream(**payload))
        await until(lambda: count(near.tier.edge, "left_streams_total", reason="replica_lost") == 1)
