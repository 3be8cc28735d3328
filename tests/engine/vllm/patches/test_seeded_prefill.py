"""A seed whose prompt is read in parts, on a fake of vLLM's model runner."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from serve_app.engine.vllm.patches.seeded_prefill import reseeded_on_cpu


class FakeGenerator:
    """Knows its seed, as torch's on the CPU does, and no offset."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.samples = 1

    def initial_seed(self) -> int:
        return self.seed

    def manual_seed(self, seed: int) -> "FakeGenerator":
        self.seed, self.samples = seed, 0
        return self


def test_a_prompt_that_is_partly_read_begins_its_samples_anew() -> None:
    """Where vLLM would take a sample back by the generator's offset, there is no generator."""
    partly_read, read = FakeGenerator(7), FakeGenerator(8)
    generators = {0: read, 2: partly_read}
    batch = SimpleNamespace(num_reqs=3, generators=generators)
    mask = SimpleNamespace(np=np.array([False, True, True, True]))
    runner = SimpleNamespace(input_batch=batch, discard_request_mask=mask)
    seen: list[set[int]] = []

    def keep_books(runner: Any, *args: object) -> tuple[object, ...]:
        seen.append(set(runner.input_batch.generators))
        return args

    assert cast("Any", reseeded_on_cpu(keep_books))(runner, "samples") == ("samples",)
    assert seen == [{0}]
    assert generators == {0: read, 2: partly_read}
    assert (partly_read.seed, partly_read.samples, read.samples) == (7, 0, 1)
