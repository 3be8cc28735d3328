"""Resumable streams of a tier's own route: edges and fake engines as they are, in one process."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.api.kept_stream_scene import RESUMABLE, Reader
from tests.api.test_forwarding import until
from tests.builders import count
from tests.serving.cluster_in_process import STREAM, Cluster, Replica, a_cluster
from tests.serving.test_moved_streams import events_of

PATH = "/api/chat/v1/chat/completions"
# The fake engine makes up for up to a second in which the machine stood still: a stream is not to
# end within that.
SPEED = 3.0
LONG = {"max_tokens": 400, "ignore_eos": True}


@asynccontextmanager
async def acquainted(replicas: int = 2, **options: Any) -> AsyncIterator[Cluster]:
    """Replicas that know each other."""
    async with a_cluster(0, **options) as cluster:
        for _ in range(replicas):
            await cluster.start_replica(knows_others=True)
        yield cluster


@asynccontextmanager
async def begun(cluster: Cluster, replica: Replica, **payload: Any) -> AsyncIterator[Reader]:
    body = {**STREAM, **LONG, **payload}
    headers = {**RESUMABLE, "x-request-id": "mine"}
    post = cluster.client.stream("POST", replica.url + PATH, json=body, headers=headers)
    async with post as answer:
        assert answer.status_code == 200
        yield Reader(answer)


async def rest_of(cluster: Cluster, replica: Replica, first: Reader) -> httpx.Response:
    """What a client gets that comes back to a replica with the events that it has."""
    return await cluster.client.get(
        f"{replica.url}/api/chat/streams/{first.stream_id}",
        headers={"last-event-id": str(len(first.events))},
    )


async def unbroken(cluster: Cluster, replica: Replica, **payload: Any) -> list[str]:
    answer = await cluster.client.post(
        replica.url + PATH,
        json={**STREAM, **LONG, **payload},
        headers={"x-request-id": "mine"},
    )
    assert answer.status_code == 200
    await cluster.nothing_runs()
    return events_of(answer.text)


def plain(text: str) -> list[str]:
    """The events, without the numbers; these are those from 1 on."""
    numbers = [int(each) for each in re.findall(r"^id: (\d+)$", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    return events_of(re.sub(r"^id: \d+\n", "", text, flags=re.MULTILINE))


def whole(*readers: Reader, then: str = "") -> list[str]:
    events = [event for reader in readers for event in reader.events]
    return plain(b"".join(events).decode() + then)


def moves_of(replica: Replica) -> float:
    return count(replica.tier.edge, "kept_streams_total", result="moved")


def left_by(replica: Replica, reason: str) -> float:
    return count(replica.tier.edge, "left_streams_total", reason=reason)


def resumed_at(replica: Replica) -> float:
    return count(replica.tier.edge, "resumed_streams_total")


async def left_behind(cluster: Cluster, replica: Replica) -> Reader:
    """A stream whose client has gone after five events."""
    async with begun(cluster, replica) as left:
        await left.until(5)
    await until(lambda: replica.tier.edge.streams.kept.away)
    return left


async def lose_engine(replica: Replica) -> None:
    replica.up = False
    replica.tier.engine.shutdown()
    await until(lambda: replica.tier.engine.dead)
    replica.tier.engine_died()
    await replica.tier.edge.streams.moves.over()


@asynccontextmanager
async def draining(replica: Replica) -> AsyncIterator[None]:
    replica.up = False
    drain = asyncio.create_task(replica.tier.drain(60))
    yield
    drain.cancel()
