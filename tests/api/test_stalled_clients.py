"""Clients that stop reading: what they hold, and for how long."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from serve_app.api.engine_run import LOOK_EVERY_S
from tests.api.asgi import Answering, Call, FakeEngine, answers, call, streams
from tests.builders import a_gate, an_edge, count, idle, some_settings
from tests.virtual_time import now_s, virtual

STREAM = {"prompt": "hi", "stream": True}
TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
STALL_S = 30.0


class Unread(Call):
    """A client that takes so many messages and then none, until it reads again."""

    def __init__(self, *args: Any, takes: int, **options: Any) -> None:
        self.reads_again = asyncio.Event()
        self._takes = takes
        super().__init__(*args, **options)

    async def _send(self, message: Message) -> None:
        if len(self.messages) >= self._takes:
            await self.reads_again.wait()
        await super()._send(message)


def an_edge_of(answering: Answering, *, slots: int = 1, **more: Any) -> Any:
    edge = an_edge(
        FakeEngine(answering),
        gate=a_gate(slots=slots, max_queued_requests=4),
        settings=some_settings(client_stall_s=STALL_S),
    )
    for name, value in more.items():
        setattr(edge, name, value)
    return edge


@virtual
async def test_a_stream_that_nobody_reads_ends_and_its_slots_are_free() -> None:
    edge = an_edge_of(streams(*[TOKEN] * 100, every_s=0.1))
    unread = Unread(edge, "", STREAM, takes=3)
    await unread.done
    assert STALL_S <= now_s() <= STALL_S + 0.2 + 2 * LOOK_EVERY_S
    assert idle(edge.gate)
    assert edge.engine_app.running == 0
    assert count(edge, "stalled_total") == 1
    assert count(edge, "requests_total", status="499") == 1
    assert (await call(edge, "", STREAM)).status == 200


@virtual
async def test_the_slots_are_free_as_soon_as_the_engine_has_finished() -> None:
    finished = asyncio.Event()
    edge = an_edge_of(streams(*[TOKEN] * 100, every_s=0.1), engine_done=lambda _: finished.is_set())
    unread = Unread(edge, "", STREAM, takes=3)
    await asyncio.sleep(5)
    assert edge.gate.running_sequences == 1
    finished.set()
    await asyncio.sleep(2 * LOOK_EVERY_S)
    assert idle(edge.gate)
    assert not unread.done.done()
    unread.reads_again.set()
    await unread.done
    assert unread.text.count("content") == 100
    assert idle(edge.gate)
    assert count(edge, "stalled_total") == 0


@virtual
async def test_a_whole_answer_holds_no_slot_while_it_waits_for_its_client() -> None:
    edge = an_edge_of(answers({"ok": True}, after_s=1.0))
    unread = Unread(edge, "", {"prompt": "hi"}, takes=1)
    await asyncio.sleep(1.5)
    assert idle(edge.gate)
    assert edge.gate.service.measured is False
    unread.reads_again.set()
    await unread.done
    assert unread.status == 200
    # The second that the engine took, and not what the client did.
    assert edge.gate.service.mean_s == pytest.approx(1.0, rel=0.2)


@virtual
async def test_a_client_that_reads_slowly_but_reads_is_let_be() -> None:
    edge = an_edge_of(streams(*[TOKEN] * 5, every_s=0.1))

    class Slow(Call):
        async def _send(self, message: Message) -> None:
            await asyncio.sleep(STALL_S - 1)
            await super()._send(message)

    slow = Slow(edge, "", STREAM)
    await slow.done
    assert slow.text.count("content") == 5
    assert edge.token_s is None, "its own pace says nothing of the engine's"


@virtual
async def test_one_that_waits_in_the_queue_and_does_not_read_its_heartbeats_leaves_it() -> None:
    edge = an_edge_of(streams(TOKEN, every_s=200.0))
    first = Call(edge, "", STREAM)
    waiting = Unread(edge, "", STREAM, takes=1)
    await waiting.done
    assert STALL_S < now_s() < STALL_S + 5
    assert edge.gate.queued_requests == 0
    first.leave()
    await first.done


@virtual
async def test_nothing_ticks_when_nobody_is_served() -> None:
    edge = an_edge_of(answers({"ok": True}))
    await call(edge, "", {"prompt": "hi"})
    timers = asyncio.get_running_loop()._scheduled  # pyright: ignore[reportAttributeAccessIssue]
    assert [timer for timer in timers if not timer.cancelled()] == []


@virtual
async def test_who_does_not_take_its_token_ids_keeps_nobody_from_the_tokenizer() -> None:
    edge = an_edge_of(answers({"tokens": [1]}, after_s=0.1))
    unread = Unread(edge, "/tokenize", {"prompt": "hi"}, takes=0)
    await asyncio.sleep(0.2)
    began_s = now_s()
    made = await call(edge, "/tokenize", {"prompt": "hi"})
    assert (made.status, now_s() - began_s) == (200, pytest.approx(0.1))
    await unread.done
    assert now_s() <= STALL_S + 2


@virtual
async def test_tokenizing_is_one_request_at_a_time() -> None:
    edge = an_edge_of(answers({"tokens": [1]}, after_s=1.0))
    calls = [Call(edge, "/tokenize", {"prompt": "hi"}) for _ in range(3)]
    await asyncio.gather(*(made.done for made in calls))
    assert now_s() == 3.0
