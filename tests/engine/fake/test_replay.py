"""The fake engine goes on where a journal ends, so that replay can be tested under load."""

from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.engine import EngineConfig, FakeEngineConfig
from serve_app.core.generation import GENERATION, Generation
from serve_app.core.placement.hardware import T4
from serve_app.core.replay.journal import Journal, read
from serve_app.engine.fake.engine import FakeEngine
from serve_app.engine.interface import Engine
from tests.engine.fake_call import Call
from tests.engine.real_engine import untimed
from tests.virtual_time import now_s, run_virtual, virtual

CHAT, LEGACY = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "x" * 4000}]


class JournaledCall(Call):
    """With the journal behind each event."""

    def __init__(self, engine: Engine, path: str, past: str = "", **body: Any) -> None:
        self.journal = Journal(read(past))
        self.generation = Generation(journal=self.journal)
        self.journals: list[str] = []
        self.written = past
        context = copy_context()
        context.run(GENERATION.set, self.generation)
        context.run(super().__init__, engine, path, **body)

    async def _send(self, message: Any) -> None:
        if unsent := self.journal.take_unsent():
            self.written = f"{self.written};{unsent}" if self.written else unsent
        await super()._send(message)
        if message.get("body"):
            self.journals.append(self.written)


async def started(**fake: Any) -> Engine:
    return await FakeEngine.start(
        EngineConfig(max_model_len=4096),
        FakeEngineConfig(start_s=0, **fake),
        T4,
        served_names=("chat",),
        phase=untimed,
    )


def content(events: list[dict[str, Any]]) -> list[Any]:
    return sorted(
        str({**event, "created": 0, "id": ""}) if event["choices"] else str(event["usage"])
        for event in events
    )


@given(
    cut=st.integers(0, 400),
    again_at=st.integers(0, 400),
    copies=st.integers(1, 3),
    interval=st.sampled_from([1, 4]),
    path=st.sampled_from([CHAT, LEGACY]),
    ignore_eos=st.booleans(),
)
def test_a_stream_goes_on_from_any_of_its_events(
    cut: int, again_at: int, copies: int, interval: int, path: str, ignore_eos: bool
) -> None:
    prompt: Any = {"messages": HELLO} if path == CHAT else {"prompt": ["a", "b"]}
    body: dict[str, Any] = {
        **prompt,
        "max_tokens": 60,
        "n": copies,
        "stream": True,
        "ignore_eos": ignore_eos,
        "stream_options": {"include_usage": True},
    }

    async def broken() -> None:
        engine = await started(stream_interval=interval, reply_tokens=40)
        whole = JournaledCall(engine, path, **body)
        events = await whole.events()
        at = cut % len(events)
        call = JournaledCall(engine, path, whole.journals[at], **body)
        again = await call.events()
        assert content(again[: at + 1]) == content(events[: at + 1])
        assert content(again) == content(events)
        later = at + again_at % (len(events) - at)
        last = await JournaledCall(engine, path, call.journals[later], **body).events()
        assert content(last) == content(events)
        assert call.generation.sequences == whole.generation.sequences
        engine.shutdown()

    run_virtual(broken())


@virtual
async def test_what_was_made_elsewhere_is_read_and_not_made_again() -> None:
    engine = await started()
    body = {"messages": HELLO, "max_tokens": 500, "ignore_eos": True, "stream": True}
    whole = JournaledCall(engine, CHAT, **body)
    await whole.events()
    whole_s, made = now_s(), engine.load.output_tokens
    heard: list[float] = []
    call = JournaledCall(engine, CHAT, whole.journals[399], **body)
    call.generation.on_first_token = lambda: heard.append(now_s())
    await call.events()
    assert engine.load.output_tokens - made == 100
    assert now_s() - whole_s == pytest.approx(whole_s * 100 / 500, rel=0.3)
    assert heard[0] < now_s()
    engine.shutdown()


@virtual
async def test_one_that_was_at_its_end_is_only_said_again() -> None:
    engine = await started()
    body = {"messages": HELLO, "max_tokens": 50, "ignore_eos": True, "stream": True}
    whole = JournaledCall(engine, CHAT, **body)
    events = await whole.events()
    before_s = now_s()
    heard: list[float] = []
    call = JournaledCall(engine, CHAT, whole.journals[-1], **body)
    call.generation.on_first_token = lambda: heard.append(now_s())
    assert content(await call.events()) == content(events)
    assert heard == [now_s()] == [before_s]
    engine.shutdown()
