"""The fake engine and the simulated one give each token at the same time."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.simulation.engine import SimulatedEngine as Engine
from loadtest.simulation.profile import GpuProfile
from loadtest.simulation.sim_request import SimRequest
from serve_app.api.demand import DemandMeter
from serve_app.core.scaling.workload import LearntLengths
from serve_app.core.tiers import Tier
from serve_app.engine.fake.batch import FakeBatch
from serve_app.engine.interface import EngineLoad
from tests.loadtest.simulation.builders import a_gpu
from tests.virtual_time import now_s, run_virtual

# Arrival in seconds, tokens of prompt and answer.
Asked = tuple[float, int, int]
Times = list[tuple[float, float]]

REQUESTS = st.lists(
    # No arrival falls on another one, or on a step's end, where it is chance which is first.
    st.tuples(
        st.integers(0, 400).map(lambda number: number * 0.00313 + 0.000071),
        st.integers(1, 300),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda request: request[0],
).map(sorted)


def gpu_of(*, step_tokens: int, kv_tokens: int) -> GpuProfile:
    return a_gpu(per_context_ktoken_ms=3.0, step_tokens=step_tokens, kv_tokens=kv_tokens)


def simulated(gpu: GpuProfile, asked: Sequence[Asked]) -> Times:
    """First and last token of each request."""
    engine = Engine(gpu, DemandMeter(gpu.step_model, LearntLengths(100, 10), lambda: 0.0, 8))
    requests = [
        SimRequest(number, Tier.CHAT, at_s, prompt_tokens, new_tokens, 1024)
        for number, (at_s, prompt_tokens, new_tokens) in enumerate(asked)
    ]
    ended_s: dict[SimRequest, float] = {}

    def run(until_s: float) -> None:
        while (end_s := engine.stride_end_s) is not None and end_s <= until_s:
            ended_s.update(dict.fromkeys(engine.end_stride(end_s), end_s))

    for request in requests:
        run(request.arrival_s)
        engine.take(request, request.arrival_s)
    run(float("inf"))
    return [(request.first_token_s or 0.0, ended_s[request]) for request in requests]


def faked(gpu: GpuProfile, asked: Sequence[Asked]) -> Times:
    async def play() -> Times:
        batch = FakeBatch(
            gpu.step_model,
            256,
            int(gpu.kv_tokens.value),
            EngineLoad(),
            per_context_token_ms=gpu.per_context_ktoken_ms.value / 1e3,
            step_tokens=int(gpu.step_tokens.value),
        )
        stepping = asyncio.create_task(batch.run())
        times = await asyncio.gather(*(one(batch, *request) for request in asked))
        stepping.cancel()
        return times

    async def one(batch: FakeBatch, at_s: float, prompt: int, answer: int) -> tuple[float, float]:
        await asyncio.sleep(at_s)
        first_s = 0.0
        with batch.reply(prompt, [answer]) as reply:
            async for _ in reply.parts():
                first_s = first_s or now_s()
        return first_s, now_s()

    return run_virtual(play())


@settings(deadline=None)
@given(asked=REQUESTS, step_tokens=st.sampled_from([64, 256, 2048]))
def test_each_token_comes_at_the_same_time(asked: list[Asked], step_tokens: int) -> None:
    gpu = gpu_of(step_tokens=step_tokens, kv_tokens=100_000)
    for fake, simulation in zip(faked(gpu, asked), simulated(gpu, asked), strict=True):
        assert fake == pytest.approx(simulation, abs=1e-6)


@settings(deadline=None)
@given(asked=REQUESTS, kv_tokens=st.integers(400, 1500))
def test_a_small_pool_delays_them_alike(asked: list[Asked], kv_tokens: int) -> None:
    """Who loses a place may differ; what all get done until when does so by some steps at most."""
    gpu = gpu_of(step_tokens=256, kv_tokens=kv_tokens)
    fake, simulation = faked(gpu, asked), simulated(gpu, asked)
    fake_s, simulation_s = max(end for _, end in fake), max(end for _, end in simulation)
    assert fake_s == pytest.approx(simulation_s, rel=0.1, abs=0.05)


def test_a_prompt_waits_until_the_pool_has_room() -> None:
    gpu = gpu_of(step_tokens=2048, kv_tokens=500)
    asked = [(0.001, 300, 40), (0.002, 300, 1)]
    (_, ended_s), (waited_s, _) = faked(gpu, asked)
    assert waited_s > ended_s
    assert faked(gpu, asked)[1] == pytest.approx(simulated(gpu, asked)[1], abs=1e-6)
