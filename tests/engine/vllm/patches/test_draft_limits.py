"""What the patch makes of vLLM's functions, for drafts of engine.speculation and for others."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.engine.vllm.drafting import RUNNER_VARIABLE
from serve_app.engine.vllm.patches.draft_limits import (
    limiting_drafts,
    sampled_plainly_without_drafts,
    taking_all_parameters,
    with_all_processors,
)

NGRAM, EAGLE = SimpleNamespace(method="ngram"), SimpleNamespace(method="eagle")


@pytest.fixture(autouse=True)
def _runner_v1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNNER_VARIABLE, "0")


def a_runner(config: Any) -> Any:
    return SimpleNamespace(
        speculative_config=config,
        vllm_config=SimpleNamespace(reasoning_config=None, additional_config={}),
        sampler=lambda **given: ("plain", given["predict_bonus_token"]),
        input_batch=SimpleNamespace(
            sampling_metadata=None, req_ids=["a"], thinking_budget_state_holder=None
        ),
        requests={"a": SimpleNamespace(sampling_params=None, output_token_ids=[])},
    )


def speculation_of(build: Callable[..., Any], config: Any, *args: Any) -> Any:
    given = SimpleNamespace(speculative_config=config)
    return build(lambda each, *_: each.speculative_config)(given, *args), given.speculative_config


def test_processors_are_those_without_speculation_for_drafts_that_are_limited() -> None:
    assert speculation_of(with_all_processors, NGRAM, None, True, False, ()) == (None, NGRAM)
    assert speculation_of(with_all_processors, EAGLE) == (EAGLE, EAGLE)
    # vLLM refuses them with speculation.
    assert speculation_of(with_all_processors, NGRAM, None, True, False, ["x"]) == (NGRAM, NGRAM)
    assert speculation_of(with_all_processors, None) == (None, None)


def test_a_step_without_drafts_is_sampled_as_without_speculation() -> None:
    sample = sampled_plainly_without_drafts(lambda *_: "with drafts")
    none, some = SimpleNamespace(max_spec_len=0), SimpleNamespace(max_spec_len=2)
    assert sample(a_runner(NGRAM), None, none) == ("plain", True)
    assert sample(a_runner(NGRAM), None, some) == "with drafts"
    assert sample(a_runner(EAGLE), None, none) == "with drafts"
    assert sample(a_runner(None), None, None) == "with drafts"


def test_parameters_that_vllm_refuses_are_taken_where_drafts_are_limited() -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("refused")

    validate = taking_all_parameters(refuse)
    validate(SimpleNamespace(), NGRAM)
    with pytest.raises(ValueError, match="refused"):
        validate(SimpleNamespace(), EAGLE)


def test_drafts_of_other_methods_are_vllms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    propose = limiting_drafts(lambda *_: [[1, 2]])
    # Its request has no sampling parameters.
    assert propose(a_runner(NGRAM), None, [[1]]) == [[]]
    assert propose(a_runner(EAGLE), None, [[1]]) == [[1, 2]]
    monkeypatch.delenv(RUNNER_VARIABLE)
    assert propose(a_runner(NGRAM), None, [[1]]) == [[1, 2]]
