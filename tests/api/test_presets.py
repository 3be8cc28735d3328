"""Sampling: what a request sets itself, then its task's values, then the tier's."""

from typing import Any

import pytest

from serve_app.api.routes import COMPLETIONS, GENERATING, Endpoint
from serve_app.api.rules import heat_warning, take_task
from serve_app.config.answers import SamplingConfig, TaskConfig
from serve_app.config.tier import TierSettings
from serve_app.core.reasoning.prompt_rules import MATH_DIRECTIVE
from serve_app.errors import RequestError
from tests.api.test_rules import BODY_OF, refusal
from tests.builders import KNOWN_FIELDS, a_prepared, some_settings

HOT_TIER = some_settings(sampling=SamplingConfig(temperature=0.9, top_p=0.8, top_k=5))
ENDPOINTS = pytest.mark.parametrize("endpoint", GENERATING.values(), ids=lambda e: e.name)


def with_tasks(**tasks: TaskConfig) -> TierSettings:
    return some_settings().model_copy(update={"tasks": tasks})


def sampling(payload: dict[str, Any]) -> dict[str, Any]:
    return {name: payload[name] for name in SamplingConfig.model_fields if name in payload}


# --- the order


def test_what_neither_request_nor_task_sets_is_the_tiers() -> None:
    payload = a_prepared(settings=HOT_TIER).payload
    assert sampling(payload) == {"temperature": 0.9, "top_p": 0.8, "top_k": 5}


def test_what_a_task_sets_goes_before_the_tiers() -> None:
    payload = a_prepared(settings=HOT_TIER, task="code").payload
    assert sampling(payload) == {"temperature": 0.3, "top_p": 0.8, "top_k": 5}


@pytest.mark.parametrize("own", [0, 0.0, 1.5])
def test_what_a_request_sets_itself_goes_before_both(own: float) -> None:
    payload = a_prepared(settings=HOT_TIER, task="code", temperature=own).payload
    assert payload["temperature"] == own


def test_a_null_is_filled_in() -> None:
    assert a_prepared(settings=HOT_TIER, temperature=None).payload["temperature"] == 0.9


def test_what_nobody_sets_is_left_to_the_engine() -> None:
    unset = some_settings(sampling=SamplingConfig(temperature=None, top_p=None))
    assert sampling(a_prepared(settings=unset).payload) == {}


@ENDPOINTS
def test_only_what_an_endpoint_knows_is_filled_in(endpoint: Endpoint) -> None:
    config = SamplingConfig(top_k=5, min_p=0.1, repetition_penalty=1.1)
    payload = a_prepared(
        BODY_OF[endpoint.name], endpoint=endpoint, settings=some_settings(sampling=config)
    ).payload
    known = SamplingConfig.model_fields.keys() & KNOWN_FIELDS[endpoint.path]
    assert sampling(payload) == {name: getattr(config, name) for name in known}


# --- tasks


@ENDPOINTS
@pytest.mark.parametrize("task", ["math", "code", "service", "creative"])
def test_a_task_is_known_at_every_endpoint_and_never_reaches_the_engine(
    endpoint: Endpoint, task: str
) -> None:
    payload = a_prepared(BODY_OF[endpoint.name], endpoint=endpoint, task=task).payload
    assert "task" not in payload
    assert payload["temperature"] == some_settings().tasks[task].temperature


def test_no_task_and_null_are_the_same() -> None:
    assert a_prepared(task=None).payload == a_prepared().payload


@pytest.mark.parametrize("task", ["maths", "", 5, True, ["math"], {"math": 1}])
def test_a_task_that_there_is_not_is_refused_with_those_that_there_are(task: object) -> None:
    error = refusal(task=task)
    assert error.param == "task"
    assert "math, code, service, creative" in error.message


def test_a_tier_may_have_tasks_of_its_own_or_none() -> None:
    settings = with_tasks(poem=TaskConfig(temperature=1.2, top_p=0.5))
    payload = a_prepared(settings=settings, task="poem").payload
    assert sampling(payload) == {"temperature": 1.2, "top_p": 0.5}
    assert "poem" in refusal(settings=settings, task="math").message
    with pytest.raises(RequestError, match="none"):
        take_task({"task": "math"}, {})


def test_a_tasks_directive_stands_at_the_end_of_the_last_message() -> None:
    messages = a_prepared({"prompt": "1+1?"}, task="math").payload["messages"]
    assert messages == [{"role": "user", "content": f"1+1?\n{MATH_DIRECTIVE}"}]
    assert a_prepared({"prompt": "1+1?"}, task="code").payload["messages"][0]["content"] == "1+1?"


def test_a_prompt_of_the_legacy_endpoint_stays_its_clients_own() -> None:
    assert a_prepared({"prompt": "hi"}, endpoint=COMPLETIONS, task="math").payload["prompt"] == "hi"


def test_a_misspelt_task_field_is_refused_with_what_was_meant() -> None:
    assert "`task`" in refusal(tasks="math").message


# --- heat


@pytest.mark.parametrize(("temperature", "warned"), [
    (0, False), (0.6, False), (0.99, False), (1, True), (1.0, True), (2, True),
    (None, False), ("2", False),
])  # fmt: skip
def test_a_temperature_at_which_an_r1_does_not_end_is_warned_of(
    temperature: object, warned: bool
) -> None:
    warning = heat_warning({"temperature": temperature})
    assert (warning is not None) is warned
    assert warning is None or f"temperature {temperature} " in warning
