"""A deadline on its way: through the gateway, to another replica, and again after a loss. Each gets
the time that is left."""

import asyncio
import json
import time

import httpx

from serve_app.api.answer_deadline import TIME_LEFT_HEADER, AnswerDeadline
from tests.api.asgi import Call
from tests.api.relay_scene import (
    CHAT,
    GENERATION,
    NO_SERVER,
    WHOLE,
    Scene,
    a_scene,
    continues,
    cut_after,
    says,
)
from tests.api.scripted_tier import JOURNALED, KEY, Asked, Connection, Reply
from tests.api.test_forwarding import a_pair, until


def left_ms(asked: Asked) -> float:
    """As the gateway has marked it."""
    deadline = AnswerDeadline.from_mark(
        asked.headers[TIME_LEFT_HEADER], KEY, asked.headers[b"x-request-id"].decode(), lambda: 0.0
    )
    assert deadline is not None
    return deadline.due_s * 1e3


async def never(connection: Connection) -> None:
    await asyncio.sleep(3600)


def code_of(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


def asking(deadline_ms: object, **more: object) -> dict[str, object]:
    return {"model": "chat", "deadline_ms": deadline_ms, **more}


async def asked_with(scene: Scene, *, deadline_ms: int = 60_000, **more: object) -> httpx.Response:
    return await scene.post(CHAT, asking(deadline_ms, **more))


async def test_the_gateway_forwards_what_is_left() -> None:
    async with a_scene(says(WHOLE)) as scene:
        scene.clock.leaps_s = 0.0
        answer = await asked_with(scene)
        assert answer.status_code == 200
        (asked,) = scene.tier.asked
        assert 30_000 < left_ms(asked) <= 60_000
        # The tier reads the client's own words, too.
        assert json.loads(asked.body)["deadline_ms"] == 60_000


async def test_a_request_without_a_deadline_is_not_marked() -> None:
    async with a_scene(says(WHOLE)) as scene:
        await scene.post(CHAT, {"model": "chat"})
        assert TIME_LEFT_HEADER not in scene.tier.asked[0].headers


async def test_a_header_does_as_well() -> None:
    async with a_scene(says(WHOLE)) as scene:
        await scene.post(CHAT, {"model": "chat"}, **{"x-deadline-ms": "60000"})
        assert 30_000 < left_ms(scene.tier.asked[0]) <= 60_000


async def test_what_is_no_deadline_is_refused_before_anybody_is_asked() -> None:
    async with a_scene() as scene:
        for value in ("soon", 0, -1, 1.5, True):
            answer = await scene.post(CHAT, asking(value))
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "deadline_ms")
        assert scene.tier.asked == []


async def test_a_stream_that_goes_on_elsewhere_has_the_time_that_is_left() -> None:
    """By the gateway's clock the first replica lived for twenty seconds."""
    answers = (cut_after(len(JOURNALED) + 50), continues)
    async with a_scene(*answers, lives_s=20.0) as scene:
        answer = await asked_with(scene, stream=True)
        assert answer.content == GENERATION.text
        first, second = scene.tier.asked
        assert left_ms(first) - left_ms(second) >= 20_000


async def test_a_whole_answer_that_is_asked_for_again_has_the_time_that_is_left() -> None:
    lost = Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf", cut=True)
    async with a_scene(lambda _: lost, says(WHOLE), lives_s=20.0) as scene:
        answer = await asked_with(scene)
        assert answer.status_code == 200
        first, second = scene.tier.asked
        assert left_ms(first) - left_ms(second) >= 20_000


async def test_the_gateway_waits_for_nobody_beyond_the_deadline() -> None:
    async with a_scene(lambda _: Reply(b"", then=never)) as scene:
        answer = await asked_with(scene, deadline_ms=300)
        assert (answer.status_code, code_of(answer)) == (504, "deadline_exceeded")
        assert answer.headers["x-should-retry"] == "false"


async def test_a_stream_is_not_held_beyond_the_deadline_until_somebody_goes_on_with_it() -> None:
    nobody = [says(NO_SERVER)] * 1000
    async with a_scene(
        cut_after(len(JOURNALED) + 50), *nobody, lives_s=6.0, max_hold_s=600.0
    ) as scene:
        answer = await asked_with(scene, deadline_ms=6500, stream=True)
        assert b'"deadline_exceeded"' in answer.content
        assert scene.gateway.memory.kept_bytes == 0


async def test_a_replica_that_runs_it_for_another_one_has_the_time_that_is_left() -> None:
    async with a_pair() as pair:
        filling = await pair.fill_here()
        payload = {"prompt": "hi", "deadline_ms": 100_000}
        began_s = time.monotonic()
        call = Call(pair.here, payload=payload)
        await until(lambda: pair.there_engine.running == 1)
        (asked,) = pair.there_engine.asked
        assert "deadline_ms" not in asked
        # 8 tokens a second where nothing is known of an engine.
        most = (100_000 / 1e3 - 0.1) * 8
        waited_s = time.monotonic() - began_s
        assert most - (waited_s + 1) * 8 <= asked["max_completion_tokens"] <= most + 1
        pair.free_there.set()
        pair.free_here.set()
        await asyncio.gather(call.done, filling.done)
        assert json.loads(call.text)["tierserve"]["deadline"]["deadline_ms"] == 100_000


async def test_a_replica_that_says_nothing_does_not_hold_it_beyond_the_deadline() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    peer = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{peer.sockets[0].getsockname()[1]}"
    async with peer, a_pair(peer_url=url) as pair:
        filling = await pair.fill_here()
        payload = {"prompt": "hi", "deadline_ms": 1500, "max_tokens": 1}
        call = Call(pair.here, payload=payload)
        await call.done
        assert (call.status, call.error["code"]) == (504, "deadline_exceeded")
        assert "its answer has not ended" in call.error["message"]
        pair.free_here.set()
        await filling.done
