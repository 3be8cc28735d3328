"""The fake engine keeps a card's step times, speaks vLLM's form, and forgets who has left."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from serve_app.config.engine import EngineConfig, FakeEngineConfig
from serve_app.core.default_model import DEFAULT_MODEL_CONFIG
from serve_app.core.generation import GENERATION, Generation
from serve_app.core.placement.hardware import CPU, RTX_4090, T4, Hardware, model_shape
from serve_app.core.scaling.step_time import StepModel, derived_step_model
from serve_app.engine.fake.engine import FakeEngine, simulated_gpu
from serve_app.engine.interface import Engine
from serve_app.errors import RequestError
from tests.engine.fake_call import Call
from tests.virtual_time import now_s, run_virtual, virtual

CHAT, LEGACY = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


@contextmanager
def untimed(_: str) -> Iterator[None]:
    yield


async def started(hardware: Hardware = T4, *, context: int = 4096, **fake: Any) -> Engine:
    return await FakeEngine.start(
        EngineConfig(max_model_len=context),
        FakeEngineConfig(**fake),
        hardware,
        served_names=("chat", "the/model"),
        phase=untimed,
    )


def model_of(hardware: Hardware) -> StepModel:
    return derived_step_model(hardware, model_shape(DEFAULT_MODEL_CONFIG))


@virtual
async def test_it_takes_its_time_to_start() -> None:
    await started(start_s=2.5)
    assert now_s() == pytest.approx(2.5)


@virtual
async def test_one_stream_takes_the_steps_of_its_gpu() -> None:
    for hardware in (T4, RTX_4090):
        engine = await started(hardware, start_s=0)
        before_s = now_s()
        call = Call(engine, CHAT, messages=HELLO, max_tokens=100, ignore_eos=True, stream=True)
        events = await call.events()
        assert len(events) == 100
        step_s = model_of(hardware).step_ms(1) / 1e3
        assert now_s() - before_s == pytest.approx(100 * step_s, rel=0.02)
        engine.shutdown()


@virtual
async def test_streams_share_each_step() -> None:
    engine = await started(start_s=0)
    body = {"messages": HELLO, "max_tokens": 50, "ignore_eos": True}
    calls = [Call(engine, CHAT, **body) for _ in range(64)]
    await asyncio.gather(*(call.answer() for call in calls))
    assert now_s() == pytest.approx(50 * model_of(T4).step_ms(64) / 1e3, rel=0.03)


@virtual
async def test_a_long_prompt_delays_the_first_token() -> None:
    engine = await started(start_s=0)
    long = [{"role": "user", "content": "x" * 4 * 4000}]
    call = Call(engine, CHAT, messages=long, max_tokens=1, stream=True)
    await call.events()
    prefill_s = 4000 * model_of(T4).per_prompt_token_ms / 1e3
    assert call.first_s == pytest.approx(prefill_s + 2 * model_of(T4).base_ms / 1e3, rel=0.02)


@virtual
async def test_a_gpu_of_the_settings_takes_its_place() -> None:
    figures = {"base_ms": 30.0, "per_sequence_ms": 2.0, "per_prompt_token_ms": 0.5}
    gpu = {**figures, "per_context_ktoken_ms": 100.0, "step_tokens": 100, "kv_tokens": 5000}
    fake = FakeEngineConfig.model_validate({"start_s": 0, "cards": {"T4": gpu}})
    hardware = simulated_gpu(fake, T4)
    assert simulated_gpu(fake, RTX_4090) is RTX_4090
    assert model_of(hardware).step_ms(3, 10) == pytest.approx(30 + 3 * 2 + 10 * 0.5)
    engine = await started(hardware, **fake.model_dump())
    assert engine.kv_tokens == 5000
    prompt = [{"role": "user", "content": "x" * 4 * 199}]
    call = Call(engine, CHAT, messages=prompt, max_tokens=2, ignore_eos=True, stream=True)
    await call.events()
    assert call.first_s == pytest.approx(2 * 0.030 + 200 * 0.0005)
    assert now_s() - call.first_s == pytest.approx(0.030 + 0.002 + 201 * 0.0001)


@virtual
async def test_an_event_has_as_many_tokens_as_the_settings_say() -> None:
    engine = await started(start_s=0, stream_interval=16)
    body = {"messages": HELLO, "max_tokens": 40, "ignore_eos": True, "stream": True}
    events = await Call(engine, CHAT, **body).events()
    words = [event["choices"][0]["delta"]["content"].count(" ") for event in events]
    assert words == [1, 16, 16, 7]


@virtual
async def test_the_edge_hears_of_the_prompt_and_of_the_first_token() -> None:
    engine = await started(start_s=0)
    heard: list[tuple[str, float]] = []
    generation = Generation(
        on_prompt=lambda tokens: heard.append((f"{tokens} tokens", now_s())),
        on_first_token=lambda: heard.append(("first token", now_s())),
    )
    GENERATION.set(generation)
    prompt = [{"role": "user", "content": "x" * 4 * 999}]
    call = Call(engine, CHAT, messages=prompt, max_tokens=50, ignore_eos=True, n=2)
    await call.answer()
    (reported, reported_s), (first, first_s) = heard
    assert (reported, reported_s) == ("2000 tokens", 0.0)
    assert first == "first token"
    assert first_s == pytest.approx(2000 * model_of(T4).per_prompt_token_ms / 1e3, abs=0.03)


@virtual
async def test_speed_divides_every_time() -> None:
    engine = await started(start_s=0, speed=4.0)
    await Call(engine, CHAT, messages=HELLO, max_tokens=100, ignore_eos=True).answer()
    assert now_s() == pytest.approx(100 * model_of(T4).step_ms(1) / 4e3, rel=0.02)
    assert engine.token_s == pytest.approx(model_of(T4).step_ms(1) / 4e3)


@virtual
async def test_a_machine_that_was_late_is_made_up_for() -> None:
    """Sleeps that end late, as on a busy machine, do not slow the engine down."""
    engine = await started(start_s=0)
    call = Call(engine, CHAT, messages=HELLO, max_tokens=200, ignore_eos=True, stream=True)
    loop: Any = asyncio.get_running_loop()
    while not call.task.done():
        await asyncio.sleep(0.05)
        loop._jumping.now_s += 0.04
    assert now_s() == pytest.approx(200 * model_of(T4).step_ms(1) / 1e3, abs=0.1)
    assert sum(event["choices"][0]["delta"]["content"].count(" ") for event in await call.events())


@virtual
async def test_a_stream_has_vllms_form() -> None:
    engine = await started(start_s=0)
    body = {"messages": HELLO, "max_completion_tokens": 3, "ignore_eos": True, "stream": True}
    call = Call(engine, CHAT, **body, stream_options={"include_usage": True})
    first, *others, usage = await call.events()
    assert first["object"] == "chat.completion.chunk"
    assert first["model"] == "chat"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "This "}
    assert others[0]["choices"][0]["delta"] == {"content": "answer "}
    reasons = [event["choices"][0]["finish_reason"] for event in (first, *others)]
    assert reasons == [None, None, "length"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert b'"choices":[{' in call.parts[0]


@virtual
async def test_a_whole_answer_has_vllms_form() -> None:
    engine = await started(start_s=0)
    body = {"model": "the/model", "prompt": ["a", "b"], "max_tokens": 2, "ignore_eos": True}
    answer = await Call(engine, LEGACY, **body).answer()
    assert answer["object"] == "text_completion"
    assert answer["model"] == "the/model"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["choices"][1]["text"] == "This answer "
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["total_tokens"] == 4 + answer["usage"]["prompt_tokens"]


@virtual
async def test_lengths_are_drawn_around_the_mean_and_repeat() -> None:
    engine = await started(start_s=0, reply_tokens=100, speed=100)
    lengths: list[int] = []
    for number in range(300):
        prompt = [{"role": "user", "content": str(number)}]
        answer = await Call(engine, CHAT, messages=prompt, max_tokens=2000).answer()
        assert answer["choices"][0]["finish_reason"] == "stop"
        lengths.append(answer["usage"]["completion_tokens"])
    assert sum(lengths) / len(lengths) == pytest.approx(100, rel=0.1)
    assert min(lengths) < 50 < 200 < max(lengths)
    again = await Call(
        engine, CHAT, messages=[{"role": "user", "content": "7"}], max_tokens=2000
    ).answer()
    assert again["usage"]["completion_tokens"] == lengths[7]


@virtual
async def test_who_leaves_makes_room() -> None:
    engine = await started(start_s=0)
    body = {"messages": HELLO, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    calls = [Call(engine, CHAT, **body) for _ in range(T4.max_sequences + 3)]
    await asyncio.sleep(1)
    assert (engine.load.running, engine.load.waiting) == (T4.max_sequences, 3)
    assert engine.load.kv_cache_usage is not None
    assert engine.load.kv_cache_usage > 0
    for call in calls[:10]:
        call.gone.set()
    calls[10].task.cancel()
    await asyncio.sleep(0.2)
    assert (engine.load.running, engine.load.waiting) == (T4.max_sequences + 3 - 11, 0)
    assert all(call.task.done() for call in calls[:11])
    made = engine.load.output_tokens
    for call in calls:
        call.gone.set()
    await asyncio.sleep(1)
    assert engine.load.running == 0
    assert engine.load.kv_cache_usage == 0
    assert engine.load.output_tokens <= made + 2 * T4.max_sequences


class Reported:
    """What the engine tells its watch."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, int, int]] = []
        self.ends: list[tuple[int, int]] = []

    def step(
        self, *, took_ms: float, sequences: int, prompt_tokens: int, tokens: int | None = None
    ) -> None:
        self.steps.append((took_ms, sequences, prompt_tokens))

    def finished(self, *, prompt_tokens: int, new_tokens: int) -> None:
        self.ends.append((prompt_tokens, new_tokens))


@virtual
async def test_steps_without_a_pause_and_requests_that_ended_are_reported() -> None:
    engine = await started(start_s=0)
    reported = engine.load.watch = Reported()
    body = {"messages": HELLO, "ignore_eos": True, "stream": True}
    first, left = (Call(engine, CHAT, **body, max_tokens=tokens) for tokens in (5, 4000))
    await first.events()
    left.gone.set()
    await left.task
    step_ms = model_of(T4).step_ms(2)
    assert reported.steps[:4] == [(pytest.approx(step_ms), 2, 0)] * 4
    assert reported.ends == [(2, 5)]


@virtual
async def test_a_prompt_takes_its_part_of_the_context() -> None:
    engine = await started(start_s=0, context=100)
    prompt = [{"role": "user", "content": "x" * 4 * 59}]
    answer = await Call(engine, CHAT, messages=prompt, ignore_eos=True).answer()
    assert answer["usage"] == {"prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, {}, 400),
        (CHAT, {"messages": "hello"}, 400),
        (CHAT, {"messages": HELLO, "max_tokens": "many"}, 400),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 40000}]}, 400),
        (CHAT, {"messages": HELLO, "model": "other"}, 404),
        (LEGACY, {}, 400),
    ],
)
def test_what_cannot_be_answered_is_refused(path: str, body: dict[str, Any], status: int) -> None:
    @virtual
    async def refused() -> None:
        with pytest.raises(RequestError) as error:
            await Call(await started(start_s=0), path, **body).task
        assert error.value.status == status

    refused()


@virtual
async def test_an_engine_that_is_shut_down_is_dead() -> None:
    engine = await started(start_s=0)
    await engine.check()
    assert not engine.dead
    engine.shutdown()
    await asyncio.sleep(0)
    assert engine.dead
    with pytest.raises(RuntimeError, match="no longer steps"):
        await engine.check()


def test_it_says_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    engine = run_virtual(started(start_s=0))
    assert engine.name == "fake"
    assert "fake engine: answers are not a model's" in caplog.messages


@virtual
async def test_its_cache_is_what_the_weights_leave() -> None:
    assert (await started(T4)).kv_tokens < (await started(RTX_4090)).kv_tokens
    assert (await started(CPU)).kv_tokens == 1024**3 // 28_672
