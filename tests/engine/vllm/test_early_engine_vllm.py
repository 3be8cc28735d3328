"""What is set for the engine's early process, held against the real vLLM."""

import os
from collections.abc import Iterator
from unittest import mock

import pytest

from serve_app.engine.vllm.cpu import variables_of_engine

# vLLM's and torch's own warnings, at their import.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """vLLM sets variables of this process."""
    with mock.patch.dict(os.environ):
        yield


def test_the_engines_variables_are_those_that_vllm_sets() -> None:
    """Otherwise the early process begins again, and its imports are lost."""
    import torch
    from vllm.config import VllmConfig
    from vllm.platforms.cpu import CpuPlatform

    if "cpu" not in torch.__version__:
        pytest.skip("this vLLM is built for a GPU")
    os.environ.pop("LD_PRELOAD", None)
    foretold = variables_of_engine(os.environ)
    assert "LD_PRELOAD" in foretold
    for name in foretold:
        os.environ.pop(name, None)
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    CpuPlatform.check_and_update_config(VllmConfig())
    assert {name: os.environ.get(name) for name in foretold} == foretold
