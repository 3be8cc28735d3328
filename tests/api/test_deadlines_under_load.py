"""Answers with deadlines at loads below and above a replica's capacity: the fake engine behind a
real edge, in virtual time."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from serve_app.api.demand import DemandMeter
from serve_app.api.edge import TierEdge
from serve_app.api.gate import Gate, GateLimits
from serve_app.config.engine import EngineConfig, FakeEngineConfig
from serve_app.core.admission.by_deadline import DEADLINE
from serve_app.core.admission.queue_drain import ServiceTime
from serve_app.core.default_model import DEFAULT_MODEL_CONFIG
from serve_app.core.placement.hardware import T4, model_shape
from serve_app.core.scaling.step_time import derived_step_model
from serve_app.core.scaling.workload import LearntLengths
from serve_app.engine.fake.engine import FakeEngine
from tests.api.asgi import Call
from tests.builders import an_edge, some_settings
from tests.virtual_time import now_s, run_virtual

SLOTS, PROMPT_TOKENS, NEW_TOKENS = 16, 100, 200
STEP = derived_step_model(T4, model_shape(DEFAULT_MODEL_CONFIG))
CAPACITY_RPS = 1 / STEP.request_s(slots=SLOTS, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)
LEAST_TOKENS = 32


@contextmanager
def untimed(_: str) -> Iterator[None]:
    yield


async def an_edge_with_an_engine() -> tuple[TierEdge, FakeEngine]:
    engine = await FakeEngine.start(
        EngineConfig(max_model_len=4096),
        FakeEngineConfig(start_s=0, reply_tokens=NEW_TOKENS, reply_spread=0.6),
        T4,
        served_names=("chat",),
        phase=untimed,
    )
    meter = DemandMeter(STEP, LearntLengths(PROMPT_TOKENS, NEW_TOKENS), now_s, SLOTS)
    engine.load.watch = meter
    limits = GateLimits(SLOTS, 200, 60.0, kv_tokens=engine.kv_tokens)
    gate = Gate(limits, ServiceTime(NEW_TOKENS * STEP.step_ms(SLOTS) / 1e3), now_s, meter)
    settings = some_settings(max_wait_s=60.0, heartbeat_s=1000.0, relay_after_s=1000.0)
    return an_edge(engine.app, gate=gate, settings=settings), engine


@dataclass(frozen=True)
class Answered:
    """`left_s` of its deadline as its last byte came."""

    status: int
    code: str | None
    left_s: float
    took_s: float
    tokens: int
    finish: str | None
    met: bool | None

    @property
    def whole(self) -> bool:
        """It ended by itself, or has what it was let in for."""
        return self.finish == "stop" or self.tokens >= LEAST_TOKENS


async def ask(edge: TierEdge, number: int, rng: random.Random, deadline_s: float) -> Answered:
    began_s = now_s()
    words = "x" * 4 * rng.randint(PROMPT_TOKENS // 2, PROMPT_TOKENS * 3 // 2)
    payload = {"prompt": f"{number} {words}", "deadline_ms": round(deadline_s * 1e3)}
    call = Call(edge, "", payload)
    await call.done
    took_s = now_s() - began_s
    left_s = deadline_s - took_s
    if call.status != 200:
        return Answered(call.status, call.error["code"], left_s, took_s, 0, None, None)
    answer = json.loads(call.text)
    return Answered(
        200,
        None,
        left_s,
        took_s,
        answer["usage"]["completion_tokens"],
        answer["choices"][0]["finish_reason"],
        answer["tierserve"]["deadline"]["met"],
    )


async def played(load: float, seconds: float, seed: int) -> list[Answered]:
    rng = random.Random(seed)
    edge, engine = await an_edge_with_an_engine()
    asked: list[asyncio.Task[Answered]] = []
    until_s, number = now_s() + seconds, 0
    while now_s() < until_s:
        await asyncio.sleep(rng.expovariate(load * CAPACITY_RPS))
        number += 1
        deadline_s = 2.0 * 30.0 ** rng.random()
        own = random.Random(rng.random())
        asked.append(asyncio.ensure_future(ask(edge, number, own, deadline_s)))
    answered = await asyncio.gather(*asked)
    engine.shutdown()
    return answered


@pytest.mark.parametrize("load", [0.5, 1.0, 1.5])
def test_answers_that_were_let_in_are_whole_and_in_time(load: float) -> None:
    """Of a hundred, 99; and one is refused at once where it would not be."""
    answered = run_virtual(played(load, 120.0, seed=round(10 * load)))
    refused = [one for one in answered if one.status == 429]
    admitted = [one for one in answered if one.status != 429]
    good = [one for one in admitted if one.whole and one.left_s >= 0]
    assert len(good) >= 0.99 * len(admitted)
    assert all(one.met is (one.left_s >= 0) for one in admitted if one.status == 200)
    assert all(one.code == DEADLINE and one.took_s == 0 for one in refused)
    assert len(admitted) >= min(1.0, 1 / load) * 0.8 * len(answered)
