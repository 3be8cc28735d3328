"""A client that loses its connection to a stream of `/v1` gets it back, each event once."""

import asyncio
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.access import AccessDesk
from serve_app.api.kept_stream import TAKEN_OVER
from tests.api.fake_keys import ADMIN, TEAM, FakeKeys
from tests.api.kept_stream_scene import (
    EVENT_NUMBER,
    LARGE,
    LONG,
    NUMBERED,
    RESUMABLE,
    Gate,
    Reader,
    begun,
    get,
    kept_bytes,
    left,
    paced,
    resumed,
)
from tests.api.relay_scene import (
    CHAT,
    STREAM,
    WHOLE,
    WHOLE_BODY,
    a_scene,
    says,
)
from tests.api.scripted_tier import (
    Asked,
    Connection,
    Reply,
    refused,
)
from tests.api.test_forwarding import until

# --- each event once and in order


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), max_size=4),
    lost_after=st.one_of(st.none(), st.integers(0, len(LONG.events) - 1)),
    every_s=st.sampled_from([0.0, 0.002]),
)
def test_whenever_clients_come_and_go_each_event_comes_once_and_in_order(
    cuts: list[tuple[int, bool, bool]], lost_after: int | None, every_s: float
) -> None:
    """Each reader takes so many events, and its connection ends before the next one comes, or while
    that one reads; it asks by header or by query. Meanwhile the replica is lost, or not."""

    async def scenario() -> None:
        replica = paced(every_s, lost_after)
        async with a_scene(replica, paced(every_s)) as scene, begun(scene) as first:
            events: list[bytes] = []
            reader, stream_id = first, first.stream_id
            for takes, by_query, stays in cuts:
                await reader.until(takes)
                events += reader.events
                query = f"?after={len(events)}" if by_query else ""
                header = {} if by_query else {"last-event-id": str(len(events))}
                if not stays:
                    await reader.answer.aclose()
                request = scene.client.build_request(
                    "GET", f"/v1/streams/{stream_id}{query}", headers=header
                )
                answer = await scene.client.send(request, stream=True)
                assert answer.status_code == 200
                reader = Reader(answer)
            await reader.rest()
            await reader.answer.aclose()
            assert events + reader.events == NUMBERED

    asyncio.run(scenario())


async def test_without_a_number_a_stream_is_sent_from_its_first_event_after_its_end_too() -> None:
    async with a_scene(paced()) as scene:
        async with begun(scene) as first:
            await first.rest()
        assert first.events == NUMBERED
        for _ in range(2):
            async with resumed(scene, first.stream_id) as again:
                await again.rest()
            assert (again.events, again.stream_id) == (NUMBERED, first.stream_id)
        async with resumed(scene, first.stream_id, len(NUMBERED)) as after_the_end:
            await after_the_end.rest()
        assert after_the_end.text == b""
        assert len(scene.tier.asked) == 1


async def test_a_second_reader_ends_the_response_of_the_first_one() -> None:
    gate = Gate(3)
    async with a_scene(gate) as scene, begun(scene) as first:
        await first.until(3)
        async with resumed(scene, first.stream_id, 2) as second:
            await first.rest()
            assert first.text.endswith(TAKEN_OVER)
            await second.until(1)
            gate.open.set()
            await second.rest()
        assert second.events == NUMBERED[2:]
        assert first.events == NUMBERED[:3]


async def test_what_an_earlier_reader_takes_late_is_nothing_to_the_one_that_reads_now() -> None:
    gate = Gate(2000, LARGE)
    async with a_scene(gate, max_kept_mib=32) as scene, begun(scene) as first:
        await first.until(1)
        await until(lambda: kept_bytes(scene) > 16_000_000, within_s=60)
        async with resumed(scene, first.stream_id, 1995) as second:
            await second.until(5)
            await first.rest()
            assert first.text.endswith(TAKEN_OVER)
            gate.open.set()
            await second.rest()
        numbers = [int(each) for each in EVENT_NUMBER.findall(second.text)]
        assert numbers == list(range(1996, 2002))


async def test_a_replica_that_is_lost_while_the_client_is_away_cuts_nothing() -> None:
    async with a_scene(paced(0.02, lost_after=5), paced()) as scene:
        async with begun(scene) as first:
            await first.until(2)
        await until(lambda: scene.count("continued") == 1)
        async with resumed(scene, first.stream_id, len(first.events)) as second:
            await second.rest()
        assert first.events + second.events == NUMBERED


async def test_heartbeats_have_no_number() -> None:
    beats_came = asyncio.Event()

    def late(asked: Asked) -> Reply:
        async def send(connection: Connection) -> None:
            await beats_came.wait()
            connection.transport.write(LONG.stream())

        return Reply(b"", then=send)

    async with a_scene(late, heartbeat_s=0.02) as scene:
        async with begun(scene) as reader:
            await reader.until_text(b": waiting", 2)
            beats_came.set()
            await reader.rest()
        assert reader.events == NUMBERED


# --- who asks for it, and who does not


async def test_a_stream_that_is_not_to_be_kept_has_no_id_and_ends_with_its_client() -> None:
    gate = Gate(3)
    async with a_scene(gate) as scene:
        async with scene.client.stream("POST", CHAT, json=STREAM) as answer:
            assert "x-tierserve-stream-id" not in answer.headers
            reader = Reader(answer)
            await reader.until(3)
            assert not EVENT_NUMBER.search(reader.text)
        await until(lambda: scene.tier.ended == 1)
        assert kept_bytes(scene) == 0


@pytest.mark.parametrize("body", [{"model": "chat"}, {"model": "chat", "stream": False}])
async def test_a_whole_answer_is_not_kept(body: dict[str, object]) -> None:
    async with a_scene(says(WHOLE)) as scene:
        answer = await scene.post(payload=body, **RESUMABLE)
        assert answer.content == WHOLE_BODY
        assert "x-tierserve-stream-id" not in answer.headers


async def test_a_refusal_of_the_tier_is_what_it_is_without() -> None:
    async with a_scene(says(refused(400, "too_long"))) as scene:
        answer = await scene.post(**RESUMABLE)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_long")
        assert "x-tierserve-stream-id" not in answer.headers
        assert left(scene, "expired") == 0


async def test_the_id_is_the_servers_and_the_tier_is_not_asked_for_it() -> None:
    async with a_scene(paced()) as scene:
        async with begun(scene, **{"x-request-id": "mine"}) as reader:
            await reader.rest()
        assert re.fullmatch("[0-9a-f]{32}", reader.stream_id)
        assert (await get(scene, "mine")).status_code == 404
        assert b"x-tierserve-resumable" not in scene.tier.asked[0].headers


async def test_a_request_that_is_sent_again_to_resume_is_refused() -> None:
    async with a_scene(paced()) as scene:
        answer = await scene.post(**{"last-event-id": "3"})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("resumed_by_get", "Last-Event-ID")
        assert "GET /v1/streams/" in error["message"]
        assert scene.tier.asked == []


@pytest.mark.parametrize("wrong", ["-1", "x", "1.5", "99", "9" * 40])
@pytest.mark.parametrize("by_query", [False, True])
async def test_the_number_of_no_event_is_refused_by_name(wrong: str, by_query: bool) -> None:
    async with a_scene(paced()) as scene:
        async with begun(scene) as reader:
            await reader.rest()
        path = f"/v1/streams/{reader.stream_id}"
        headers = {} if by_query else {"last-event-id": wrong}
        answer = await scene.client.get(
            path, headers=headers, params={"after": wrong} if by_query else {}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] in ("Last-Event-ID", "after")


async def test_a_look_at_the_head_takes_the_stream_from_nobody() -> None:
    gate = Gate(3)
    async with a_scene(gate) as scene, begun(scene) as first:
        await first.until(3)
        head = await scene.client.head(f"/v1/streams/{first.stream_id}")
        assert (head.status_code, head.content) == (200, b"")
        gate.open.set()
        await first.rest()
        assert first.events == NUMBERED


async def test_with_keys_only_the_key_that_asked_gets_it_back() -> None:
    access = AccessDesk(FakeKeys())
    team = {"authorization": f"Bearer {TEAM.decode()}"}
    other = {"x-api-key": ADMIN.decode()}
    async with a_scene(paced(), access=access) as scene:
        async with begun(scene, **team) as first:
            await first.rest()
        path = f"/v1/streams/{first.stream_id}"
        assert (await scene.client.get(path)).status_code == 401
        refusal = await scene.client.get(path, headers=other)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (404, "stream_not_found")
        anthropic = await scene.client.get(path, headers={**other, "anthropic-version": "1"})
        assert anthropic.json()["type"] == "error"
        assert anthropic.json()["error"]["type"] == "not_found_error"
        async with resumed(scene, first.stream_id, 4, **team) as again:
            await again.rest()
        assert again.events == NUMBERED[4:]
