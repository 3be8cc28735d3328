"""Resumable streams of a tier's own route whose replica drains or ends."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from serve_app.api.kept_stream import MOVED
from serve_app.api.request_body import BodyReader
from tests.api.kept_stream_scene import Reader
from tests.api.test_forwarding import until
from tests.builders import count
from tests.serving.test_moved_streams import replayed_in
from tests.serving.tier_stream_scene import (
    SPEED,
    acquainted,
    begun,
    draining,
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


async def test_while_the_replica_drains_only_a_stream_without_a_client_moves() -> None:
    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        expected = await unbroken(cluster, far)
        async with begun(cluster, near) as left:
            await left.until(5)
        async with begun(cluster, near) as stays:
            await stays.until(5)
            near.up = False
            draining = asyncio.create_task(near.tier.drain(60))
            await until(lambda: moves_of(near))
            await stays.rest()
        draining.cancel()
        assert whole(stays) == expected
        assert whole(left, then=(await rest_of(cluster, far, left)).text) == expected
        assert left_by(near, "handed_over") == 1
        assert resumed_at(far) == 1


async def test_when_the_drain_is_over_its_streams_move() -> None:
    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        expected = await unbroken(cluster, far)
        async with begun(cluster, near) as first:
            await first.until(5)
            near.up = False
            assert await near.tier.drain(0.05) == 1
            await first.rest()
        assert first.text.endswith(MOVED)
        assert whole(first, then=(await rest_of(cluster, far, first)).text) == expected


async def test_a_stream_of_a_drain_that_nobody_takes_goes_on_where_it_is() -> None:
    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        expected = await unbroken(cluster, near)
        left = await left_behind(cluster, near)
        far.tier.edge.hand_over.draining = True
        async with draining(near):
            await until(lambda: resumed_at(near))
            far.tier.edge.hand_over.draining = False
            rest = await rest_of(cluster, near, left)
        assert whole(left, then=rest.text) == expected
        assert (moves_of(near), left_by(near, "handed_over")) == (0, 1)


async def test_a_stream_is_offered_as_its_client_leaves_a_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No other offer than that one.
    monkeypatch.setattr("serve_app.api.hand_over.OFFER_SOON_S", 3600.0)
    async with acquainted(speed=1.0) as cluster:
        near, far = cluster.replicas
        async with draining(near):
            await until(lambda: near.tier.edge.hand_over.draining)
            async with begun(cluster, near) as left:
                await left.until(5)
            await until(lambda: moves_of(near))
        rest = await rest_of(cluster, far, left)
        assert rest.text.endswith("data: [DONE]\n\n")
        assert replayed_in(rest.text) == 1


async def test_a_client_that_leaves_a_drain_finds_its_stream_before_it_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its new connection may be there before the end of the old one is known."""
    monkeypatch.setattr("serve_app.api.tier_streams.MOVES_ON_WITHIN_S", 60.0)
    looks: list[float] = []
    async with acquainted(speed=1.0) as cluster:
        near, far = cluster.replicas
        peers = far.tier.edge.forwarder.peers

        async def looked() -> Sequence[str]:
            looks.append(near.running)
            return await peers()

        far.tier.edge.forwarder.peers = looked
        async with draining(near):
            await until(lambda: near.tier.edge.hand_over.draining)
            async with begun(cluster, near, max_tokens=200) as left:
                await left.until(5)
                finding = asyncio.create_task(rest_of(cluster, far, left))
                await until(lambda: len(looks) > 2)
                assert moves_of(near) == 0
            await until(lambda: moves_of(near))
            rest = await finding
        assert rest.status_code == 200
        assert rest.text.endswith("data: [DONE]\n\n")
        assert replayed_in(rest.text) == 1


async def test_a_replica_that_ends_hands_over_what_runs_without_a_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nobody has taken it when it was offered.
    monkeypatch.setattr("serve_app.api.hand_over.OFFER_SOON_S", 3600.0)
    async with acquainted(speed=1.0) as cluster:
        near, far = cluster.replicas
        async with begun(cluster, near, max_tokens=200) as left:
            await left.until(5)
        await until(lambda: near.tier.edge.streams.kept.away)
        near.up = False
        assert await near.tier.end_kept_streams() == 1
        assert (moves_of(near), near.tier.edge.streams.kept.running) == (1, 0)
        rest = await rest_of(cluster, far, left)
        assert rest.text.endswith("data: [DONE]\n\n")
        assert replayed_in(rest.text) == 1
        assert await near.tier.end_kept_streams() == 0


async def test_a_replica_that_ends_without_another_one_ends_its_streams() -> None:
    async with acquainted(1, speed=1.0) as cluster:
        (near,) = cluster.replicas
        async with begun(cluster, near) as left:
            await left.until(5)
        await until(lambda: near.tier.edge.streams.kept.away)
        assert await near.tier.end_kept_streams() == 1
        assert near.tier.edge.streams.kept.running == 0
        assert '"code": "replica_stopping"' in (await rest_of(cluster, near, left)).text


async def test_a_stream_whose_move_takes_too_long_runs_once_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the other replica has got goes on where it was: nobody waits for its answer any more."""
    monkeypatch.setattr("serve_app.api.stream_moves.MOVES_WITHIN_S", 0.2)
    read = BodyReader.read
    slow = asyncio.Event()

    async def slowly(self: BodyReader, *given: Any, **more: Any) -> bytes:
        body = await read(self, *given, **more)
        if self is far.tier.edge.streams.bodies:
            await asyncio.wait_for(slow.wait(), 60)
        return body

    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        expected = await unbroken(cluster, near)
        async with begun(cluster, near) as left:
            await left.until(5)
        await until(lambda: near.tier.edge.streams.kept.away)
        monkeypatch.setattr(BodyReader, "read", slowly)
        async with draining(near):
            await until(lambda: count(near.tier.edge, "resumed_streams_total"))
            slow.set()
            rest = await rest_of(cluster, near, left)
        assert whole(left, then=rest.text) == expected
        assert far.tier.edge.streams.kept.running == 0
        assert (moves_of(near), count(far.tier.edge, "resumed_streams_total")) == (0, 0)


async def test_a_stream_that_cannot_move_is_not_stopped_for_a_drain() -> None:
    """There is no memory for its journal."""
    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        expected = await unbroken(cluster, far)
        near.tier.edge.streams.memory.limit_bytes = 0
        left = await left_behind(cluster, near)
        async with draining(near):
            await until(lambda: not near.running)
            rest = await rest_of(cluster, near, left)
        assert whole(left, then=rest.text) == expected


async def test_a_client_that_comes_back_while_others_are_looked_for_keeps_its_stream_here() -> None:
    async with acquainted(speed=SPEED) as cluster:
        near, far = cluster.replicas
        expected = await unbroken(cluster, far)
        left = await left_behind(cluster, near)
        looked, goes_on = asyncio.Event(), asyncio.Event()

        async def peers() -> Sequence[str]:
            looked.set()
            await goes_on.wait()
            return [far.url]

        near.tier.edge.forwarder.peers = peers
        async with draining(near):
            await asyncio.wait_for(looked.wait(), 60)
            path = f"{near.url}/api/chat/streams/{left.stream_id}"
            async with cluster.client.stream("GET", path) as answer:
                again = Reader(answer)
                await again.until(1)
                goes_on.set()
                await again.rest()
        assert plain(again.text.decode()) == expected
        assert moves_of(near) == 0


async def test_an_engine_that_dies_soon_after_a_drain_is_the_first_loss_of_its_stream() -> None:
    async with acquainted(3, speed=1.0) as cluster:
        near, *others = cluster.replicas
        left = await left_behind(cluster, near)
        async with draining(near):
            await until(lambda: moves_of(near))
            await until(lambda: any(each.running for each in others))
            (second,) = [each for each in others if each.running]
            (third,) = [each for each in others if each is not second]
            await lose_engine(second)
            await until(lambda: moves_of(second))
            rest = await rest_of(cluster, third, left)
        assert rest.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in rest.text
        assert replayed_in(rest.text) == 2
