"""Real vLLM under a deadline: an answer that is ended with its time, and an edge that plans it."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest

from serve_app.api.demand import DemandMeter
from serve_app.api.edge import TierEdge
from serve_app.api.gate import Gate, GateLimits
from serve_app.core.admission.queue_drain import ServiceTime
from serve_app.core.reasoning.deadline import RunningDeadline
from serve_app.core.scaling.step_time import StepModel
from serve_app.core.scaling.workload import LearntLengths
from serve_app.core.tiers import Tier
from serve_app.engine.interface import Engine
from tests.api.asgi import Call, sse_data
from tests.builders import an_edge, idle, some_settings
from tests.engine.real_engine import Asked, Stream, streamed
from tests.engine.stream_content import content
from tests.engine.vllm import test_replay
from tests.engine.vllm.test_replay import DIRECT, GREEDY, QUESTION, SCHEMA, bound, chat

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]

Run = Callable[[Any], Any]
run, engine = test_replay.run, test_replay.engine
AT = 12


def due_at(result: int) -> RunningDeadline:
    """Its time is over with that result of the engine: its clock is asked with each one."""
    looks = count(1)
    return RunningDeadline(1000, result + 0.05, lambda: float(next(looks)))


def timed(asked: Asked, result: int = AT) -> Asked:
    return replace(asked, time=due_at(result), close_reasoning=lambda *_: None)


def whole(asked: Asked) -> Asked:
    body = {key: value for key, value in asked.body.items() if key != "stream_options"}
    return replace(asked, body={**body, "stream": False})


def texts(stream: Stream, index: str = "0") -> dict[str, str]:
    return {kind: text for kind, text in content(stream.parsed).parts[index] if kind != "end"}


def ends(stream: Stream, index: str = "0") -> list[Any]:
    return [what for kind, what in content(stream.parsed).parts[index] if kind == "end"]


def test_a_stream_ends_with_length_where_its_time_is_over(run: Run, engine: Engine) -> None:
    plain = texts(run(streamed(engine, chat(DIRECT, ignore_eos=True), None)))
    stream = run(streamed(engine, timed(chat(DIRECT, ignore_eos=True)), None))
    assert plain["content"].startswith(texts(stream)["content"])
    assert ends(stream) == [("length", None)]
    (facts,) = stream.generation.sequences.values()
    # A result may have more tokens than one.
    assert AT <= facts.tokens < 4 * AT
    (usage,) = [event["usage"] for event in stream.parsed[:-1] if event.get("usage")]
    assert usage["completion_tokens"] == facts.tokens
    assert engine.has_finished(stream.generation)


def test_a_whole_answer_says_the_same(run: Run, engine: Engine) -> None:
    asked = whole(timed(chat(DIRECT, ignore_eos=True, logprobs=True, top_logprobs=1)))
    stream = run(streamed(engine, asked, None))
    answer = json.loads("".join(stream.events))
    (choice,) = answer["choices"]
    (facts,) = stream.generation.sequences.values()
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == facts.tokens
    assert len(choice["logprobs"]["content"]) == facts.tokens
    assert engine.has_finished(stream.generation)


@pytest.mark.parametrize("result", [1, 5, 9, 14, 20])
def test_json_is_valid_wherever_its_time_is_over(run: Run, engine: Engine, result: int) -> None:
    for asked in (
        chat(DIRECT, response_format=bound(SCHEMA)),
        chat(DIRECT, response_format=bound(SCHEMA), n=2, **GREEDY),
    ):
        stream = run(streamed(engine, timed(asked, result), None))
        for index, facts in stream.generation.sequences.items():
            answer = json.loads(texts(stream, str(index))["content"])
            assert 2 <= len(answer["steps"]) <= 4
            assert facts.closed or ends(stream, str(index)) == [("stop", None)]
        found = json.loads("".join(run(streamed(engine, whole(timed(asked, result)), None)).events))
        for choice in found["choices"]:
            assert 2 <= len(json.loads(choice["message"]["content"])["steps"]) <= 4


def test_a_stream_that_was_ended_goes_on_elsewhere_to_the_same_end(
    run: Run, engine: Engine
) -> None:
    """There nobody would end it: that its time was over is in its journal."""

    async def gone_on() -> tuple[Stream, Stream]:
        base = await streamed(engine, timed(chat(DIRECT, ignore_eos=True)))
        (at,) = [at for at, journal in enumerate(base.journals) if "length" in journal][:1]
        again = await streamed(
            engine, timed(chat(DIRECT, ignore_eos=True), 9999), base.journals[at]
        )
        return base, again

    base, again = run(gone_on())
    assert texts(again) == texts(base)
    assert ends(again) == [("length", None)]


@dataclass
class Asking:
    """An edge in front of the engine, by real time."""

    edge: TierEdge

    async def ask(self, **fields: Any) -> tuple[Call, float]:
        began_s = time.monotonic()
        call = Call(self.edge, "", {"prompt": QUESTION, "temperature": 0, **fields})
        await call.done
        return call, time.monotonic() - began_s


def an_asking(engine: Engine, *, slots: int = 8) -> Asking:
    model = StepModel(engine.token_s * 1e3, 0.0, 0.2)
    meter = DemandMeter(model, LearntLengths(60, 100), time.monotonic, slots)
    engine.load.watch = meter
    limits = GateLimits(slots, 100, 60.0, kv_tokens=engine.kv_tokens)
    gate = Gate(limits, ServiceTime(100 * engine.token_s), time.monotonic, meter)
    settings = some_settings(max_new_tokens=300, relay_after_s=10.0, heartbeat_s=10.0)
    edge = an_edge(
        engine.app,
        gate=gate,
        settings=settings,
        tier=Tier.REASONING,
        thinks=True,
        clock_s=time.monotonic,
    )
    return Asking(edge)


def test_an_edge_has_whole_answers_in_time(run: Run, engine: Engine) -> None:
    """Of eight, six: a machine that stands still for a second spoils one, or two."""

    async def asked() -> list[tuple[Call, float]]:
        asking = an_asking(engine)
        await asking.ask()
        found = [await asking.ask(deadline_ms=6000, stream=n % 2 == 0) for n in range(8)]
        assert idle(asking.edge.gate)
        return found

    good = 0
    for call, took_s in run(asked()):
        if call.status != 200:
            assert call.error["code"] == "deadline_exceeded"
            continue
        events = sse_data(call.text)
        said = json.loads(events[-2]) if events else json.loads(call.text)
        deadline = said["tierserve"]["deadline"]
        assert deadline["deadline_ms"] == 6000
        assert deadline["met"] or took_s > 5
        text = call.text.replace("\\\\", "\\")
        good += deadline["met"] and took_s <= 6 and "boxed" in text
    assert good >= 6


def test_nothing_is_left_of_what_was_ended(run: Run, engine: Engine) -> None:
    async def left() -> None:
        for _ in range(1500):
            if not engine.load.running:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the engine still runs what was ended")

    run(left())
