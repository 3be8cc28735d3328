"""What `engine.speculation` becomes, and what is refused at the start."""

from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from serve_app.config.tier import tier_args
from serve_app.engine.vllm import speculation
from serve_app.engine.vllm.speculation import (
    PATCHES_FOR_DRAFTS,
    Speculation,
    SpeculationError,
    check_patches,
    choose_runner,
    chosen_speculation,
)


@pytest.fixture(params=[False, True], ids=["without arctic", "with arctic"])
def has_suffix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    found = ModuleSpec("arctic_inference", None) if request.param else None
    monkeypatch.setattr(speculation, "find_spec", lambda _: found)
    return request.param


def test_the_method_is_the_one_that_is_set_or_installed(has_suffix: bool) -> None:
    assert chosen_speculation("off") is None
    assert chosen_speculation("ngram") == Speculation("ngram", measured=False)
    best = "suffix" if has_suffix else "ngram"
    assert chosen_speculation("auto") == Speculation(best, measured=True)
    if has_suffix:
        assert chosen_speculation("suffix") == Speculation("suffix", measured=False)
    else:
        with pytest.raises(SpeculationError, match=r"arctic-inference==0\.1\.1"):
            chosen_speculation("suffix")


def test_the_promises_hold_in_runner_v1_which_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    choose_runner({})
    choose_runner({"VLLM_USE_V2_MODEL_RUNNER": "0"})
    with pytest.raises(SpeculationError, match="VLLM_USE_V2_MODEL_RUNNER is set to 1"):
        choose_runner({"VLLM_USE_V2_MODEL_RUNNER": "1"})


def test_without_a_patch_that_drafts_need_the_engine_does_not_start() -> None:
    check_patches(dict.fromkeys(PATCHES_FOR_DRAFTS, True))
    with pytest.raises(SpeculationError, match="draft_limits"):
        check_patches({**dict.fromkeys(PATCHES_FOR_DRAFTS, True), "draft_limits": False})


@pytest.mark.parametrize(
    "engine",
    [
        {"speculation": "ngram", "fake": {}},
        {"speculation": "ngram", "extra_args": {"speculative_config": "{}"}},
        {"speculation": "auto", "extra_args": {"additional-config": "{}"}},
        {"speculation": "eagle"},
        {"speculation_tokens": 0},
    ],
)
def test_settings_that_contradict_each_other_are_refused(engine: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="speculation"):
        tier_args({"tier": "chat", "engine": engine})
