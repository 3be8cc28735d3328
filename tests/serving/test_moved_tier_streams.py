"""Resumable streams of a tier's own route whose replica loses its engine."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import pytest

from serve_app.api.answer_deadline import TIME_LEFT_HEADER, AnswerDeadline
from serve_app.api.asked_stream import AskedStream
from serve_app.api.forwarding import Forwarder
from serve_app.api.kept_stream import MOVED, StreamFacts
from serve_app.api.kept_streams import KeptStreams, Relaying
from tests.api.test_forwarding import until
from tests.builders import count
from tests.serving.cluster_in_process import STREAM
from tests.serving.test_moved_streams import replayed_in
from tests.serving.tier_stream_scene import (
    PATH,
    SPEED,
    acquainted,
    begun,
    left_behind,
    left_by,
    lose_engine,
    moves_of,
    plain,
    rest_of,
    resumed_at,
    unbroken,
    whole,
)


@pytest.mark.parametrize(
    ("reads", "payload"),
    [(1, {}), (7, {}), (30, {}), (7, {"n": 3}), (7, {"stream_options": {"include_usage": True}})],
)
async def test_a_stream_whose_engine_dies_is_got_back_whole_from_another_replica(
    reads: int, payload: dict[str, Any]
) -> None:
    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        expected = await unbroken(cluster, far, **payload)
        async with begun(cluster, near, **payload) as first:
            await first.until(reads)
            await lose_engine(near)
            await first.rest()
        assert first.text.endswith(MOVED)
        again = await rest_of(cluster, far, first)
        assert again.status_code == 200
        assert whole(first, then=again.text) == expected
        assert replayed_in(again.text) == 1
        text = first.text.decode() + again.text
        assert len(set(re.findall(r'"created":\d+', text))) == 1
        assert moves_of(near) == 1
        assert left_by(near, "engine_stopped") == 1
        assert count(near.tier.edge, "requests_total", status="200") == 0
        assert resumed_at(far) == 1
        assert count(far.tier.edge, "replay_mismatches_total") == 0


async def test_a_stream_whose_client_is_away_when_its_engine_dies_is_whole_too() -> None:
    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        expected = await unbroken(cluster, far)
        first = await left_behind(cluster, near)
        await lose_engine(near)
        await until(lambda: moves_of(near))
        path = f"{far.url}/api/chat/streams/{first.stream_id}"
        from_its_begin = await cluster.client.get(path)
        assert plain(from_its_begin.text) == expected
        assert whole(first, then=(await rest_of(cluster, far, first)).text) == expected


async def test_a_third_replica_asks_the_others_for_a_stream_that_has_moved() -> None:
    async with acquainted(3, speed=SPEED) as cluster:
        near, *others = cluster.replicas
        expected = await unbroken(cluster, others[0])
        async with begun(cluster, near) as first:
            await first.until(5)
            await lose_engine(near)
            await first.rest()
        for replica in others:
            assert whole(first, then=(await rest_of(cluster, replica, first)).text) == expected
        unknown = await cluster.client.get(f"{near.url}/api/chat/streams/r0-{'0' * 32}")
        assert unknown.status_code == 404


async def test_a_stream_that_another_replica_ran_goes_on_over_the_same_connection() -> None:
    async with acquainted(speed=4.0, slots=1) as cluster:
        near, far = cluster.replicas
        expected = await unbroken(cluster, far)
        async with begun(cluster, near, max_tokens=600) as filling:
            await filling.until(1)
            async with begun(cluster, near) as first:
                await first.until(5)
                assert far.running == 1
                await far.kill()
                await asyncio.gather(first.rest(), filling.rest())
        assert whole(first) == expected
        assert first.text.endswith(b"data: [DONE]\n\n")


async def test_without_another_replica_a_stream_ends_with_an_error() -> None:
    async with acquainted(1, speed=SPEED) as cluster:
        (near,) = cluster.replicas
        async with begun(cluster, near) as first:
            await first.until(5)
            await lose_engine(near)
            await first.rest()
        assert b'"code": "engine_stopped"' in first.events[-2]
        assert first.text.endswith(b"data: [DONE]\n\n")


async def test_a_request_that_kills_two_engines_within_seconds_is_given_up() -> None:
    async with acquainted(3, speed=1.0) as cluster:
        near = cluster.replicas[0]
        async with begun(cluster, near) as first:
            await first.until(5)
            await lose_engine(near)
            await first.rest()
        await until(lambda: any(each.up and each.running for each in cluster.replicas))
        (second,) = [each for each in cluster.replicas if each.up and each.running]
        (third,) = [each for each in cluster.replicas if each.up and each is not second]
        await lose_engine(second)
        # Its process lives for a moment, with what it has kept.
        second.up = True
        answer = await rest_of(cluster, third, first)
        assert moves_of(second) == 0
        assert resumed_at(third) == 0
        assert '"code": "engine_stopped"' in answer.text


async def test_what_a_client_writes_moves_nothing() -> None:
    async with acquainted(speed=20.0) as cluster:
        near, far = cluster.replicas
        async with begun(cluster, far) as first:
            await first.rest()
            forged = {"x-tierserve-moved": f"{'0' * 64} {first.stream_id} 3"}
            forged |= {"x-tierserve-resume": f"{'0' * 64} 3 1 1 - 0", "x-request-id": "mine"}
            answer = await cluster.client.post(
                near.url + PATH, json={**STREAM, "max_tokens": 3}, headers=forged
            )
        assert answer.status_code == 200
        assert answer.text.endswith("data: [DONE]\n\n")
        assert near.tier.edge.streams.kept.memory.kept_bytes == 0


async def test_streams_that_are_whole_leave_no_memory_of_their_journals() -> None:
    async with acquainted(speed=SPEED) as cluster:
        near = cluster.replicas[0]
        async with begun(cluster, near) as first:
            await first.until(5)
            assert near.tier.edge.streams.memory.kept_bytes > 0
            await first.rest()
        assert near.tier.edge.streams.memory.kept_bytes == 0


async def test_a_stream_that_moves_while_it_is_looked_for_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes to a replica that did not have it when its client asked."""
    read_stream = Forwarder.read_stream

    @asynccontextmanager
    async def moves_first(
        self: Forwarder, url: str, *given: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if near.up:
            await lose_engine(near)
            await until(lambda: moves_of(near))
        async with read_stream(self, url, *given) as answer:
            yield answer

    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        async with begun(cluster, near) as left:
            await left.until(5)
        await until(lambda: near.tier.edge.streams.kept.away)
        monkeypatch.setattr(Forwarder, "read_stream", moves_first)
        rest = await rest_of(cluster, far, left)
        assert rest.status_code == 200
        assert rest.text.endswith("data: [DONE]\n\n")
        assert replayed_in(rest.text) == 1


async def test_a_deadline_counts_on_where_a_stream_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    headers: list[dict[bytes, bytes]] = []
    status_of = Forwarder.status_of

    async def seen(
        self: Forwarder, url: str, given: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> int | None:
        headers.append(dict(given))
        return await status_of(self, url, given, body)

    monkeypatch.setattr(Forwarder, "status_of", seen)
    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        async with begun(cluster, near, deadline_ms=3_000_000) as first:
            await first.until(5)
            await lose_engine(near)
            await first.rest()
        assert (await rest_of(cluster, far, first)).text.endswith("data: [DONE]\n\n")
    (marked,) = [each[TIME_LEFT_HEADER] for each in headers]
    key = cluster.secret.key
    left = AnswerDeadline.from_mark(marked, key, "mine", lambda: 0.0)
    assert left is not None
    assert left.deadline_ms == 3_000_000
    assert 0 < left.left_s < 3000


async def test_what_runs_on_a_moved_stream_keeps_no_more_of_what_came_than_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[AskedStream] = []
    take_up = KeptStreams.take_up

    def seen(self: KeptStreams, relay: Relaying, facts: StreamFacts, events: bytes) -> bool:
        assert isinstance(relay, partial)
        kept.append(relay.args[1])
        return take_up(self, relay, facts, events)

    monkeypatch.setattr(KeptStreams, "take_up", seen)
    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        async with begun(cluster, near) as first:
            await first.until(5)
            await lose_engine(near)
            await first.rest()
        await rest_of(cluster, far, first)
    (asked,) = kept
    holding = asked.body.__closure__
    assert holding is not None
    assert [cell.cell_contents for cell in holding] == [asked.body()]
