"""Where compiled code is kept."""

import os
from pathlib import Path

import pytest

from serve_app.engine.vllm.compilation import keep_compiled_in

VARIABLES = ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR")


@pytest.fixture(autouse=True)
def no_cache_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        # Set first, so that what a test sets is taken away at its end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_vllm_and_torch_keep_their_files_below_one_directory(tmp_path: Path) -> None:
    keep_compiled_in(str(tmp_path))
    assert [Path(os.environ[name]) for name in VARIABLES] == [tmp_path, tmp_path / "inductor"]


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_compiled_in("~/cache")
    assert os.environ["VLLM_CACHE_ROOT"] == str(tmp_path / "cache")


def test_unset_leaves_vllms_own_place() -> None:
    keep_compiled_in(None)
    assert not any(name in os.environ for name in VARIABLES)
