"""Resumable streams of a tier's own route whose replica loses its engine, or drains: edges and fake
engines as they are, in one process."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import httpx
import pytest

from serve_app.api.answer_deadline import TIME_LEFT_HEADER, AnswerDeadline
from serve_app.api.asked_stream import AskedStream
from serve_app.api.forwarding import Forwarder
from serve_app.api.kept_stream import MOVED, StreamFacts
from serve_app.api.kept_streams import KeptStreams, Relaying
from serve_app.api.request_body import BodyReader
from tests.api.test_forwarding import until
from tests.api.test_kept_streams import RESUMABLE, Reader
from tests.builders import count
from tests.serving.cluster_in_process import STREAM, Cluster, Replica, a_cluster
from tests.serving.test_moved_streams import events_of, replayed_in

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


@asynccontextmanager
async def draining(replica: Replica) -> AsyncIterator[None]:
    replica.up = False
    drain = asyncio.create_task(replica.tier.drain(60))
    yield
    drain.cancel()


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
    monkeypatch.setattr("serve_app.api.hand_over.OFFER_EVERY_S", 3600.0)
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


async def test_a_replica_that_ends_hands_over_what_runs_without_a_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nobody has taken it when it was offered.
    monkeypatch.setattr("serve_app.api.hand_over.OFFER_EVERY_S", 3600.0)
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
