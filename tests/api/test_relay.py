"""A request whose replica is lost: its client gets one whole answer, or a reason why not."""

import asyncio
import json
import logging
from typing import Any

import pytest

from serve_app.api.relay import FIRST_PAUSE_S, SETTLES_S
from serve_app.api.replay_wire import JOURNAL_HEADER, RESUME_HEADER
from serve_app.api.upstream_response import NO_SERVER_AT_ONCE_S
from tests.api.asgi import sse_data
from tests.api.relay_scene import (
    CHAT,
    EVENTS,
    GENERATION,
    NO_SERVER,
    STREAM,
    WHOLE,
    WHOLE_BODY,
    a_scene,
    continues,
    cut_after,
    says,
)
from tests.api.scripted_tier import (
    JOURNALED,
    SSE_HEAD,
    Answer,
    Asked,
    Connection,
    Reply,
    framed,
    refused,
)
from tests.api.test_forwarding import until

# --- once, and again


@pytest.mark.parametrize("second", [0, 30, 150, 200, 220])
async def test_a_continued_stream_that_breaks_is_continued_again(second: int) -> None:
    first_bytes = len(JOURNALED) + 50
    answers = (cut_after(first_bytes), cut_after(second), continues)
    async with a_scene(*answers, lives_s=6.0) as scene:
        answer = await scene.post()
        assert answer.content == GENERATION.text
        assert len(scene.tier.asked) == 3
        assert scene.gateway.memory.kept_bytes == 0


async def test_what_the_client_has_sent_is_sent_again_with_the_journal_behind_it() -> None:
    async with a_scene(cut_after(len(JOURNALED) + 50), continues) as scene:
        await scene.post(authorization="Bearer k", **{"x-request-id": "r-1"})
        first, second = scene.tier.asked
        assert second.body == first.body
        assert (second.path, second.headers[b"authorization"]) == (f"/api/chat{CHAT}", b"Bearer k")
        assert second.resumption is not None
        said = second.resumption
        assert (said.events, said.replays, said.created_s, said.only_with_room) == (1, 1, 7, False)
        assert scene.count("continued") == 1


async def test_a_replica_that_says_that_it_has_no_more_is_left_at_once() -> None:
    lost = JOURNALED + framed(b":j 0 0 1000\n\n" + EVENTS[0]) + framed(b":lost engine\n\n")
    held = asyncio.Event()

    async def stay(connection: Connection) -> None:
        await held.wait()

    async with a_scene(lambda asked: Reply(lost, then=stay), continues) as scene:
        answer = await scene.post()
        held.set()
        assert answer.content == GENERATION.text


# --- nobody is there to go on


async def test_a_stream_is_held_with_heartbeats_until_a_replica_is_up() -> None:
    answers = (cut_after(len(JOURNALED) + 50), says(NO_SERVER), says(NO_SERVER), continues)
    async with a_scene(*answers, heartbeat_s=0.1) as scene:
        answer = await scene.post()
        assert answer.text.replace(": waiting for a replica\n\n", "").encode() == GENERATION.text
        assert answer.text.count(": waiting for a replica\n\n") >= 1


@pytest.mark.parametrize(
    "answer",
    [says(NO_SERVER), says(refused(429, "queue_full")), says(refused(503, "engine_stopped"))],
)
async def test_a_stream_is_given_up_when_it_was_held_too_long(answer: Answer) -> None:
    first = cut_after(len(JOURNALED) + 50)
    async with a_scene(first, answer, max_hold_s=2 * FIRST_PAUSE_S) as scene:
        text = (await scene.post()).text
        error = json.loads(sse_data(text)[1])["error"]
        assert (error["code"], sse_data(text)[2]) == ("replica_lost", "[DONE]")
        assert "0.2 s" in error["message"]
        assert (scene.count("given_up"), scene.count("continued")) == (1, 0)


async def test_another_replica_is_asked_for_once_the_proxy_has_noticed_the_loss() -> None:
    loop = asyncio.get_running_loop()
    times_s: list[float] = []

    async def lose(connection: Connection) -> None:
        await asyncio.sleep(0.01)
        times_s.append(loop.time())
        connection.transport.close()

    def goes_on(asked: Asked) -> bytes:
        times_s.append(loop.time())
        return continues(asked)

    lost = JOURNALED + framed(GENERATION.chunks()[0])
    async with a_scene(lambda asked: Reply(lost, then=lose), goes_on) as scene:
        assert (await scene.post()).content == GENERATION.text
    lost_s, asked_s = times_s
    assert asked_s - lost_s >= SETTLES_S


async def test_a_stream_that_somebody_keeps_without_a_word_is_given_up_too() -> None:
    answers = (cut_after(len(JOURNALED) + 50), says(b""))
    async with a_scene(*answers, max_hold_s=0.2, heartbeat_s=0.05) as scene:
        text = (await scene.post()).text
        assert json.loads(sse_data(text)[1])["error"]["code"] == "replica_lost"


@pytest.mark.parametrize(
    ("path", "begin"),
    [
        ("/v1/chat/completions", b'data: {"error"'),
        ("/v1/completions", b'data: {"error"'),
        ("/v1/messages", b'event: error\ndata: {"type": "error"'),
        ("/v1/responses", b'event: error\ndata: {"type":"error","code":"replica_lost"'),
    ],
)
async def test_who_is_given_up_gets_an_error_event_in_the_form_of_the_route(
    path: str, begin: bytes
) -> None:
    async with a_scene(cut_after(len(JOURNALED) + 50), max_times=1) as scene:
        text = (await scene.post(path)).content
        assert text.removeprefix(EVENTS[0]).startswith(begin)
        if path == "/v1/responses":
            # Its events are numbered, and so is this one.
            assert b'"sequence_number":1' in text


async def test_a_refusal_by_whoever_is_to_go_on_is_the_streams_end() -> None:
    answers = (cut_after(len(JOURNALED) + 50), says(refused(401, "invalid_api_key")))
    async with a_scene(*answers) as scene:
        text = (await scene.post()).text
        assert json.loads(sse_data(text)[1])["error"]["code"] == "invalid_api_key"


async def test_a_replica_that_would_begin_anew_is_not_listened_to() -> None:
    """As one of an older release."""
    anew = SSE_HEAD + b"\r\n" + framed(GENERATION.text) + b"0\r\n\r\n"
    async with a_scene(cut_after(len(JOURNALED) + 50), says(anew)) as scene:
        text = (await scene.post()).text
        assert text.encode().startswith(EVENTS[0])
        assert json.loads(sse_data(text)[1])["error"]["code"] == "replica_lost"


# --- how often


async def test_a_request_whose_second_replica_dies_as_soon_as_the_first_is_given_up_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_scene(cut_after(len(JOURNALED) + 50), cut_after(0), continues) as scene:
        with caplog.at_level(logging.ERROR):
            text = (await scene.post(**{"x-request-id": "deadly"})).text
        assert "soon after it began" in json.loads(sse_data(text)[1])["error"]["message"]
        assert len(scene.tier.asked) == 2
    (record,) = [each for each in caplog.records if each.getMessage() == "a request is given up"]
    assert (record.__dict__["request_id"], record.__dict__["why"]) == ("deadly", "quick_deaths")


@pytest.mark.parametrize(("max_times", "asked"), [(0, 1), (1, 2), (2, 3), (3, 4)])
async def test_a_request_is_continued_so_often_and_not_more(max_times: int, asked: int) -> None:
    answers = [cut_after(len(JOURNALED) + 50)] * 6
    async with a_scene(*answers, lives_s=6.0, max_times=max_times) as scene:
        text = (await scene.post()).text
        assert json.loads(sse_data(text)[-2])["error"]["code"] == "replica_lost"
        assert len(scene.tier.asked) == asked
        assert (JOURNAL_HEADER in scene.tier.asked[0].headers) == (max_times > 0)


async def test_a_proxy_that_reports_a_replica_lost_counts_as_one_more() -> None:
    answers = (cut_after(len(JOURNALED) + 50), says(refused(502, "bad_gateway")), continues)
    async with a_scene(*answers) as scene:
        text = (await scene.post()).text
        assert "soon after it began" in json.loads(sse_data(text)[1])["error"]["message"]


@pytest.mark.parametrize("end", [cut_after(0), says(refused(502, "bad_gateway"))])
async def test_the_end_of_a_replica_that_has_said_so_is_no_second_loss(end: Answer) -> None:
    """The proxy sends to it until its process is gone: there a request has met that, and no other
    replica."""
    lost = JOURNALED + framed(b":j 0 0 1000\n\n" + EVENTS[0]) + framed(b":lost engine\n\n")
    async with a_scene(
        lambda _: Reply(lost), says(refused(503, "engine_stopped")), end, continues
    ) as scene:
        assert (await scene.post()).content == GENERATION.text
        assert scene.count("given_up") == 0


async def test_a_request_that_kills_the_next_one_too_is_given_up_all_the_same() -> None:
    lost = JOURNALED + framed(b":j 0 0 1000\n\n" + EVENTS[0]) + framed(b":lost engine\n\n")
    async with a_scene(lambda _: Reply(lost), cut_after(0), cut_after(0), continues) as scene:
        text = (await scene.post()).text
        assert "soon after it began" in json.loads(sse_data(text)[1])["error"]["message"]
        assert len(scene.tier.asked) == 3


# --- hand-over


def offering(*later: bytes) -> Answer:
    """The first event, an offer, and what comes behind it."""

    def answer(asked: Asked) -> Reply:
        head = JOURNALED + framed(b":j 0 0 1000\n\n" + EVENTS[0]) + framed(b":offer\n\n")
        return Reply(head + b"".join(map(framed, later)) + (b"0\r\n\r\n" if later else b""))

    return answer


async def test_a_stream_goes_over_to_a_replica_that_has_room() -> None:
    async with a_scene(offering(), continues) as scene:
        answer = await scene.post()
        assert answer.content == GENERATION.text
        resumption = scene.tier.resumptions[1]
        assert resumption is not None
        assert (resumption.only_with_room, resumption.events, resumption.replays) == (True, 1, 1)
        await until(lambda: scene.tier.ended == 1)
        assert scene.count("handed_over") == 1


async def test_a_stream_that_nobody_has_room_for_goes_on_where_it_is() -> None:
    rest = GENERATION.chunks()[1:]
    async with a_scene(offering(*rest), says(refused(503, "no_capacity"))) as scene:
        answer = await scene.post()
        assert answer.content == GENERATION.text
        assert len(scene.tier.asked) == 2
        assert scene.count("not_handed_over") == 1


async def test_each_offer_is_tried() -> None:
    rest = [*GENERATION.chunks()[1:2], b":offer\n\n"]
    answers = (offering(*rest), says(refused(503, "no_capacity")), continues)
    async with a_scene(*answers) as scene:
        answer = await scene.post()
        assert answer.content == GENERATION.text
        assert [each.dropped for each in scene.tier.asked] == [0, 1, 3]


async def test_a_stream_runs_on_where_it_is_when_nobody_answers_to_an_offer() -> None:
    """As Ray's own proxy, which keeps requests of a tier without a replica. The offers that come
    meanwhile, and soon after, are passed over."""
    chunks = GENERATION.chunks()
    rest = [chunks[1], b":offer\n\n", *chunks[2:]]
    async with a_scene(
        offering(*rest), says(b""), heartbeat_s=0.05, hand_over_within_s=0.2
    ) as scene:
        answer = await scene.post()
        assert answer.text.replace(": waiting for a replica\n\n", "").encode() == GENERATION.text
        assert len(scene.tier.asked) == 2
        assert scene.count("not_handed_over") == 1


async def test_a_hand_over_is_no_loss() -> None:
    def loses(asked: Asked) -> Reply:
        return Reply(continues(asked)[: len(JOURNALED) + 80], cut=True)

    async with a_scene(offering(), offering_again, loses, continues, max_times=1) as scene:
        answer = await scene.post()
        assert answer.content == GENERATION.text


def offering_again(asked: Asked) -> Reply:
    chunks = GENERATION.chunks(asked.past, asked.dropped)
    return Reply(JOURNALED + framed(chunks[0]) + framed(b":offer\n\n"))


# --- whole answers


@pytest.mark.parametrize(
    "lost",
    [
        lambda asked: Reply(b"", cut=True),
        lambda asked: Reply(WHOLE[:-3], cut=True),
        says(refused(503, "engine_stopped")),
    ],
)
async def test_a_whole_answer_that_is_lost_is_asked_for_again(lost: Answer) -> None:
    async with a_scene(lost, says(NO_SERVER), says(WHOLE)) as scene:
        answer = await scene.post(payload={"model": "chat"})
        assert (answer.status_code, answer.json()) == (200, {"choices": []})
        assert answer.headers["x-tierserve-replayed"] == "1"
        assert len(scene.tier.asked) == 3
        assert all(RESUME_HEADER not in each.headers for each in scene.tier.asked)
        assert (scene.count("asked_again"), scene.gateway.memory.kept_bytes) == (1, 0)


async def test_who_hears_after_a_while_that_there_is_no_server_has_lost_the_last_one() -> None:
    async def late(connection: Connection) -> None:
        await asyncio.sleep(NO_SERVER_AT_ONCE_S + 0.05)
        connection.transport.write(NO_SERVER)

    for payload, end, text in ((STREAM, continues, GENERATION.text), ({}, says(WHOLE), WHOLE_BODY)):
        async with a_scene(lambda asked: Reply(b"", then=late), end) as scene:
            answer = await scene.post(payload=payload)
            assert (answer.status_code, answer.content) == (200, text)
            assert len(scene.tier.asked) == 2


@pytest.mark.parametrize("payload", [STREAM, {"model": "chat"}])
async def test_a_request_under_which_the_proxy_has_lost_two_replicas_is_given_up(
    payload: dict[str, Any],
) -> None:
    async with a_scene(says(refused(502, "bad_gateway"))) as scene:
        answer = await scene.post(payload=payload)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "replica_lost")
        assert len(scene.tier.asked) == 1


async def test_a_whole_answer_is_given_up_as_a_502_with_the_reason() -> None:
    async with a_scene(lambda asked: Reply(b"", cut=True)) as scene:
        answer = await scene.post(payload={"model": "chat"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "replica_lost")
        assert len(scene.tier.asked) == 2


async def test_a_refusal_that_is_no_loss_passes_as_it_is() -> None:
    """It comes at once, however slow the machine is."""
    async with a_scene(says(NO_SERVER), clock_runs=False) as scene:
        for payload in (STREAM, {"model": "chat"}):
            answer = await scene.post(payload=payload)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_server")
        assert len(scene.tier.asked) == 2


# --- the bounds of memory


async def test_a_stream_beyond_the_memory_is_forwarded_without_a_journal() -> None:
    async with a_scene(continues, max_journal_mib=1) as scene:
        with scene.gateway.memory.keeping() as other:
            assert other.resize(1024 * 1024)
            answer = await scene.post()
        assert answer.content == GENERATION.text
        assert JOURNAL_HEADER not in scene.tier.asked[0].headers


async def test_a_stream_that_outgrows_the_memory_goes_on_and_is_not_continued() -> None:
    async with a_scene(cut_after(len(JOURNALED) + 50), continues, max_journal_mib=1) as scene:
        with scene.gateway.memory.keeping() as other:
            # Room for the body and nothing else.
            other.resize(1024 * 1024 - len(json.dumps(STREAM, separators=(",", ":"))))
            text = (await scene.post()).text
        assert text.encode().startswith(EVENTS[0])
        assert json.loads(sse_data(text)[1])["error"]["code"] == "replica_lost"
        assert len(scene.tier.asked) == 1


async def test_the_journal_of_a_running_stream_is_in_the_metrics() -> None:
    seen: list[float] = []

    async def look(connection: Connection) -> None:
        kept_bytes = len(scene.tier.asked[0].body) + len("0 0 1000")
        await until(lambda: scene.value("tierserve_journal_bytes") == kept_bytes)
        seen.append(kept_bytes)
        connection.transport.write(b"".join(map(framed, GENERATION.chunks()[1:])) + b"0\r\n\r\n")

    begin = JOURNALED + framed(GENERATION.chunks()[0])
    async with a_scene(lambda asked: Reply(begin, then=look)) as scene:
        answer = await scene.post()
        assert answer.content == GENERATION.text
        assert len(seen) == 1


# --- clients


async def test_a_clients_own_words_in_these_headers_go_nowhere() -> None:
    async with a_scene(continues) as scene:
        await scene.post(**{"x-tierserve-journal": "x", "x-tierserve-resume": "y 0 1 1 - 0"})
        (asked,) = scene.tier.asked
        assert asked.resumption is None


async def test_a_client_that_leaves_a_held_stream_ends_the_search() -> None:
    async with a_scene(cut_after(len(JOURNALED) + 50), says(NO_SERVER)) as scene:
        async with scene.client.stream("POST", CHAT, json=STREAM) as response:
            parts = response.aiter_raw()
            await anext(parts)
            await until(lambda: len(scene.tier.asked) > 2)
        await until(lambda: scene.gateway.memory.kept_bytes == 0)
        asked = len(scene.tier.asked)
        await asyncio.sleep(1.0)
        assert len(scene.tier.asked) == asked


async def test_a_client_that_reads_nothing_fills_no_memory() -> None:
    event = b"data: " + b"x" * 10_000 + b"\n\n"
    most, written_bytes = 64 * 1024 * 1024, 0

    async def flood(connection: Connection) -> None:
        nonlocal written_bytes
        while written_bytes < most:
            await connection.writable.wait()
            connection.transport.write(framed(event))
            written_bytes += len(event)

    async with a_scene(lambda asked: Reply(JOURNALED, then=flood)) as scene:
        host, _, port = scene.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = json.dumps(STREAM).encode()
        writer.write(
            b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (CHAT.encode(), len(body), body)
        )
        await until(lambda: written_bytes)
        before, now = -1, 0
        while now != before:
            await asyncio.sleep(0.3)
            before, now = now, written_bytes
        # What the kernel's buffers take, at both sides of the gateway.
        assert 0 < written_bytes < 20 * 1024 * 1024
        writer.transport.abort()
        del reader


# --- connections


async def test_requests_one_after_another_go_over_one_connection() -> None:
    async with a_scene(continues, says(WHOLE), continues) as scene:
        for payload in (STREAM, {"model": "chat"}, STREAM):
            answer = await scene.post(payload=payload)
            assert answer.status_code == 200
        assert [each.connection for each in scene.tier.asked] == [1, 1, 1]


async def test_who_goes_on_is_asked_over_a_new_connection() -> None:
    """A kept one may lead to a HAProxy that was replaced, and knows replicas that are gone."""
    cut = cut_after(len(JOURNALED) + 50)
    async with a_scene(says(WHOLE), says(WHOLE), cut, continues) as scene:
        both = (scene.post(payload={"model": "chat"}) for _ in range(2))
        await asyncio.gather(*both)
        answer = await scene.post()
        assert answer.content == GENERATION.text
        assert [each.connection for each in scene.tier.asked][-1] == 3


async def test_a_connection_that_was_closed_meanwhile_is_no_loss() -> None:
    async with a_scene(says(WHOLE), lambda asked: Reply(b"", cut=True), says(WHOLE)) as scene:
        for _ in range(2):
            answer = await scene.post(payload={"model": "chat"})
            assert answer.status_code == 200
            assert "x-tierserve-replayed" not in answer.headers
        assert [each.connection for each in scene.tier.asked] == [1, 1, 2]
