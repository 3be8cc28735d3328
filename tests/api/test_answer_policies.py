"""Which answer policy a request gets, and what its reasoning is planned to be under it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from serve_app.api.answer_policies import take_policy
from serve_app.api.lending import written_plan
from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.api.rules import PreparedRequest
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
    slots: int = 8,
) -> tuple[PolicyPlan | None, ThinkingPlan | None]:
    payload = {**(payload or {})}
    found = take_policy(payload, endpoint, answers, plan, slots)
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


EXIT = AnswersConfig(policy=AnswerPolicy.EARLY_EXIT, trial_every_tokens=32, trial_tokens=9)
PAIR = AnswersConfig(policy=AnswerPolicy.PAIR, trial_every_tokens=32, trial_tokens=9)
VOTE = AnswersConfig(policy=AnswerPolicy.VOTE, vote_samples=5)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_an_early_exit_has_the_tiers_trials() -> None:
    planned = PolicyPlan(AnswerPolicy.EARLY_EXIT, 32, 9)
    assert taken(answers=EXIT) == (planned, PLAN)
    assert taken({"answer_policy": "early_exit", "logprobs": True}, answers=EXIT)[0] == planned
    assert taken({"response_format": {"type": "text"}, "tools": []}, answers=EXIT)[0] == planned


def test_a_pair_takes_two_slots_and_has_the_tiers_trials() -> None:
    planned = PolicyPlan(AnswerPolicy.PAIR, 32, 9, samples=2)
    assert taken(answers=PAIR) == (planned, PLAN)
    assert taken({"answer_policy": "pair", "temperature": 0}, answers=PAIR)[0] == planned
    assert taken(answers=PAIR, slots=1) == (None, PLAN)


def test_lean_goes_with_everything_that_reasons() -> None:
    planned = PolicyPlan(AnswerPolicy.LEAN, lean_most=20.0, lean_begins_at=0.5)
    answers = AnswersConfig(policy=AnswerPolicy.LEAN)
    for fields in ({}, {"n": 3}, {"tools": [TOOL]}, {"logprobs": True}):
        assert taken(fields, answers=answers) == (planned, PLAN)
        assert taken({**fields, "answer_policy": "lean"})[0] == planned
    assert taken(endpoint=RESPONSES, answers=answers) == (planned, PLAN)
    named = taken({"answer_policy": "lean:12"})[0]
    assert named is not None
    assert named.lean_most == 12
    assert taken(answers=answers, plan=None) == (None, None)
    with pytest.raises(RequestError, match="this tier's does not"):
        taken({"answer_policy": "lean"}, plan=None)


@pytest.mark.parametrize("plan", [replace(PLAN, enabled=False), replace(PLAN, most_tokens=0)])
def test_a_pair_needs_reasoning_to_compare_with(plan: ThinkingPlan) -> None:
    assert taken(answers=PAIR, plan=plan) == (None, plan)
    with pytest.raises(RequestError, match="this request has none"):
        taken({"answer_policy": "pair"}, plan=plan)


def test_a_request_may_have_fewer_samples_and_trials_than_its_tier() -> None:
    assert taken({"answer_policy": "vote:2"}, answers=VOTE)[0] == PolicyPlan(
        AnswerPolicy.VOTE, samples=2
    )
    assert taken({"answer_policy": "early_exit:100"}, answers=EXIT)[0] == PolicyPlan(
        AnswerPolicy.EARLY_EXIT, 100, 9
    )
    assert taken({"answer_policy": "pair:32"}, answers=PAIR)[0] == PolicyPlan(
        AnswerPolicy.PAIR, 32, 9, 2
    )


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("vote:1", "takes 2 to 3 samples in this tier, not 1"),
        ("vote:4", "takes 2 to 3 samples"),
        ("vote:", "`vote:2`"),
        ("vote:2.5", "whole number"),
        ("vote:-2", "whole number"),
        ("vote:٣", "whole number"),
        ("vote:" + "9" * 5000, "whole number"),
        ("vote:2:3", "whole number"),
        ("early_exit:63", "takes from 64 on tokens"),
        ("lean:101", "takes 0 to 100 logits"),
        ("pair:0", "takes from 64 on tokens"),
        ("direct:1", "has no number"),
        ("truncate:256", "has no number"),
    ],
)
def test_a_number_that_a_policy_does_not_take_is_refused(named: str, says: str) -> None:
    message = refused({"answer_policy": named})
    assert says in message
    assert len(message) < 200


def test_a_vote_has_no_more_samples_than_slots() -> None:
    assert taken(answers=VOTE) == (PolicyPlan(AnswerPolicy.VOTE, samples=5), PLAN)
    assert taken(answers=VOTE, slots=3)[0] == PolicyPlan(AnswerPolicy.VOTE, samples=3)
    assert taken(answers=VOTE, slots=1) == (None, PLAN)
    assert taken(answers=VOTE, plan=None)[0] == PolicyPlan(AnswerPolicy.VOTE, samples=5)


@pytest.mark.parametrize(
    ("policy", "fields", "answers"),
    [
        ("early_exit", {"n": 2}, EXIT),
        ("early_exit", {"use_beam_search": True}, EXIT),
        ("early_exit", {"tools": [TOOL]}, EXIT),
        ("early_exit", {"response_format": {"type": "json_object"}}, EXIT),
        ("early_exit", {"structured_outputs": {"regex": "a+"}}, EXIT),
        ("pair", {"n": 2}, PAIR),
        ("pair", {"tools": [TOOL]}, PAIR),
        ("pair", {"response_format": {"type": "json_object"}}, PAIR),
        ("pair", {"logprobs": True}, PAIR),
        ("vote", {"n": 3}, VOTE),
        ("vote", {"tools": [TOOL]}, VOTE),
        ("vote", {"temperature": 0}, VOTE),
        ("vote", {"logprobs": True}, VOTE),
        ("vote", {"top_logprobs": 2}, VOTE),
        ("vote", {"prompt_logprobs": 1}, VOTE),
        ("vote", {"echo": True}, VOTE),
        ("vote", {"use_beam_search": True}, VOTE),
    ],
    ids=str,
)
def test_what_a_policy_does_not_go_with_is_refused_if_it_is_named(
    policy: str, fields: dict[str, Any], answers: AnswersConfig
) -> None:
    """A tier's own gives way."""
    assert taken(fields, answers=answers) == (None, PLAN)
    assert f"`answer_policy` {policy}" in refused({**fields, "answer_policy": policy})


def test_policies_of_one_answer_are_those_of_chat_completions() -> None:
    for endpoint in (RESPONSES, MESSAGES):
        for answers in (EXIT, PAIR, VOTE):
            assert taken(endpoint=endpoint, answers=answers) == (None, PLAN)


def test_an_early_exit_needs_a_model_that_reasons() -> None:
    with pytest.raises(RequestError, match="this tier's does not"):
        taken({"answer_policy": "early_exit"}, plan=None)
    assert taken(answers=EXIT, plan=None) == (None, None)


def test_what_is_made_beside_the_answer_is_reserved_too() -> None:
    prepared = PreparedRequest({}, 1, 100, False, PLAN, policy=taken(answers=EXIT)[0])
    assert prepared.most_new_tokens == 100 + 3 * 9
    assert prepared.can_move
    prepared = PreparedRequest({}, 2, 100, False, PLAN, policy=taken(answers=PAIR)[0])
    assert prepared.most_new_tokens == 200 + 3 * 9
    assert prepared.can_move
    prepared = PreparedRequest({}, 5, 100, False, PLAN, policy=taken(answers=VOTE)[0])
    assert prepared.most_new_tokens == 500
    assert not prepared.can_move


@pytest.mark.parametrize("policy", AnswerPolicy)
def test_a_lender_reads_the_policy_that_a_borrower_writes(policy: AnswerPolicy) -> None:
    plan = PolicyPlan(policy, 32, 9, 4)
    prepared = PreparedRequest({}, 1, 10, False, PLAN, policy=plan)
    assert read_policy(json.loads(written_plan(prepared))["policy"]) == plan
