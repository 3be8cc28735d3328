"""Which answer policy a request gets, and what its reasoning is planned to be under it."""

from typing import Any

import pytest

from serve_app.api.answer_policies import take_policy
from serve_app.api.lending import written_plan
from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.config.answers import AnswersConfig
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan, read_policy
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.errors import RequestError

PLAN = ThinkingPlan(enabled=True, answer_tokens=256, answer_share=0.25)
TRUNCATE = AnswersConfig()
DIRECT = AnswersConfig(policy=AnswerPolicy.DIRECT)


def taken(
    payload: dict[str, Any] | None = None,
    endpoint: Endpoint = CHAT_COMPLETIONS,
    answers: AnswersConfig = TRUNCATE,
    plan: ThinkingPlan | None = PLAN,
) -> tuple[PolicyPlan | None, ThinkingPlan | None]:
    payload = {**(payload or {})}
    found = take_policy(payload, endpoint, answers, plan)
    assert "answer_policy" not in payload
    return found


def refused(payload: dict[str, Any], endpoint: Endpoint = CHAT_COMPLETIONS) -> str:
    with pytest.raises(RequestError) as caught:
        taken(payload, endpoint)
    assert (caught.value.status, caught.value.param) == (400, "answer_policy")
    return caught.value.message


def test_without_any_policy_nothing_changes() -> None:
    assert taken() == (None, PLAN)
    assert taken({"answer_policy": None}) == (None, PLAN)


def test_a_request_that_names_truncate_gets_it_from_any_tier() -> None:
    policy, plan = taken({"answer_policy": "truncate"}, answers=DIRECT)
    assert (policy, plan) == (PolicyPlan(AnswerPolicy.TRUNCATE), PLAN)


def test_direct_has_no_reasoning() -> None:
    for policy, plan in (taken({"answer_policy": "direct"}), taken(answers=DIRECT)):
        assert policy == PolicyPlan(AnswerPolicy.DIRECT)
        assert plan is not None
        assert not plan.enabled


@pytest.mark.parametrize(
    "asks",
    [
        {"thinking_token_budget": 100},
        {"reasoning_effort": "low"},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ],
)
def test_a_request_that_asks_for_reasoning_gets_it_from_a_direct_tier(asks: dict[str, Any]) -> None:
    assert taken(asks, answers=DIRECT) == (None, PLAN)
    assert "leave one of the two out" in refused({**asks, "answer_policy": "direct"})


def test_a_tiers_policy_is_that_of_all_its_routes_that_reason() -> None:
    for endpoint in (RESPONSES, MESSAGES):
        policy, plan = taken(endpoint=endpoint, answers=DIRECT)
        assert policy == PolicyPlan(AnswerPolicy.DIRECT)
        assert plan is not None
        assert not plan.enabled
    assert taken(endpoint=COMPLETIONS, answers=DIRECT, plan=None) == (None, None)


@pytest.mark.parametrize("endpoint", [RESPONSES, MESSAGES, COMPLETIONS])
def test_the_field_is_one_of_chat_completions(endpoint: Endpoint) -> None:
    assert "POST /v1/chat/completions" in refused({"answer_policy": "direct"}, endpoint)


@pytest.mark.parametrize("value", ["best", "", 1, True, ["direct"], {}, "TRUNCATE"])
def test_what_is_no_policy_is_refused_with_those_that_are(value: object) -> None:
    message = refused({"answer_policy": value})
    assert all(policy in message for policy in AnswerPolicy)


@pytest.mark.parametrize("policy", AnswerPolicy)
def test_a_lender_reads_the_policy_that_a_borrower_writes(policy: AnswerPolicy) -> None:
    import json

    from serve_app.api.rules import PreparedRequest

    plan = PolicyPlan(policy)
    prepared = PreparedRequest({}, 1, 10, False, PLAN, policy=plan)
    assert read_policy(json.loads(written_plan(prepared))["policy"]) == plan
