"""A compiled graph that was kept, loaded by the real vLLM."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.engine.vllm.cpu import computes_on_cpu
from tests.engine.vllm import compiled_starts

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_kept_graph_is_loaded_and_computes_what_a_fresh_one_does(tmp_path: Path) -> None:
    if not computes_on_cpu():
        pytest.skip("this vLLM is built for a GPU")
    fresh, kept = starts(tmp_path)
    assert (fresh["compiled"], fresh["loaded"]) == (1, 0)
    assert (kept["compiled"], kept["loaded"]) == (0, 1)
    assert kept["ids"] == fresh["ids"]
    assert min(map(len, fresh["ids"])) > 10


def starts(cache: Path) -> list[dict[str, Any]]:
    ran = subprocess.run(
        [sys.executable, "-m", compiled_starts.__name__, str(cache)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"ids"')]
