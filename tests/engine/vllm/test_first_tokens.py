"""Which prompts are read, by vLLM's own state of its sequences."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.generation import Generation
from serve_app.core.scaling.step_time import StepModel
from serve_app.engine.fake.batch import FakeBatch
from serve_app.engine.interface import EngineLoad
from serve_app.engine.vllm.first_tokens import FirstTokens
from tests.virtual_time import virtual


class Scene:
    """vLLM's state of sequences, and what a generation is told."""

    def __init__(self) -> None:
        self.states: dict[str, Any] = {}
        self.ids: dict[str, list[str]] = {}
        self.reported: list[int | str] = []
        self.first_tokens = FirstTokens(self.states, self.ids)
        self.generation = Generation(
            on_prompt=self.reported.append, on_first_token=lambda: self.reported.append("read")
        )

    def add(self, request_id: str, *sequences: str) -> None:
        self.ids[request_id] = list(sequences)
        for each in sequences:
            self.states[each] = SimpleNamespace(is_prefilling=True)

    def read(self, sequence: str) -> None:
        self.states[sequence].is_prefilling = False
        self.first_tokens.look()

    def end(self, request_id: str) -> None:
        for each in self.ids.pop(request_id):
            del self.states[each]


def test_a_first_token_is_reported_once_when_the_prompt_is_read() -> None:
    scene = Scene()
    scene.first_tokens.expect(scene.generation, "a", 10)
    scene.first_tokens.look()
    scene.add("a", "a-1")
    scene.first_tokens.look()
    assert scene.reported == [10]
    scene.read("a-1")
    scene.first_tokens.look()
    scene.first_tokens.forget(scene.generation, "a")
    assert scene.reported == [10, "read"]


def test_sequences_of_one_prompt_are_read_with_the_first_of_them() -> None:
    scene = Scene()
    scene.first_tokens.expect(scene.generation, "a", 10)
    scene.add("a", "a-1", "a-2")
    scene.read("a-2")
    assert scene.reported == [10, "read"]


def test_of_several_prompts_the_last_one_reports() -> None:
    scene = Scene()
    for name in ("a", "b"):
        scene.first_tokens.expect(scene.generation, name, 10)
        scene.add(name, f"{name}-1")
    scene.read("b-1")
    assert scene.reported == [10, 20]
    scene.read("a-1")
    assert scene.reported == [10, 20, "read"]


def test_one_that_ends_with_the_step_that_reads_it_is_reported() -> None:
    scene = Scene()
    scene.first_tokens.expect(scene.generation, "a", 10)
    scene.add("a", "a-1")
    scene.first_tokens.look()
    scene.end("a")
    scene.first_tokens.look()
    assert scene.reported == [10, "read"]


def test_one_that_is_aborted_is_not_looked_for_any_more() -> None:
    scene = Scene()
    scene.first_tokens.expect(scene.generation, "a", 10)
    scene.first_tokens.forget(scene.generation, "a")
    scene.first_tokens.look()
    assert scene.reported == [10, "read"]


@virtual
async def test_the_fake_engine_reports_with_its_first_token() -> None:
    batch = FakeBatch(StepModel(10.0, 0.0, 1.0), 8, 10_000, EngineLoad())
    stepping = asyncio.create_task(batch.run())
    reported: list[int] = []
    with batch.reply(100, [3, 2], lambda: reported.append(1)) as reply:
        made = [part async for part in reply.parts()]
    stepping.cancel()
    assert len(made) > 2
    assert reported == [1]


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(300)
def test_vllm_keeps_the_state_that_is_looked_at() -> None:
    from vllm.v1.engine.output_processor import OutputProcessor, RequestState

    processor = OutputProcessor(None, log_stats=False)
    first_tokens = FirstTokens(processor.request_states, processor.external_req_ids)
    first_tokens.expect(Generation(), "a", 10)
    first_tokens.look()
    # A look is no request: vLLM's ids are a mapping that makes what it lacks.
    assert not processor.external_req_ids
    assert "is_prefilling" in RequestState.__init__.__code__.co_names
