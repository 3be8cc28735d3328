"""Which answer policy a request gets: its tier's, or the one that it names in `answer_policy`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serve_app.api.routes import CHAT_COMPLETIONS, Endpoint
from serve_app.api.token_budget import asks_for_reasoning
from serve_app.config.answers import AnswersConfig
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.errors import invalid

POLICY = "answer_policy"


def take_policy(
    payload: dict[str, Any],
    endpoint: Endpoint,
    answers: AnswersConfig,
    plan: ThinkingPlan | None,
) -> tuple[PolicyPlan | None, ThinkingPlan | None]:
    """The policy, with the request's field for it taken out, and the plan of its reasoning under
    it. None for what is as without policies.

    The tier's own gives way to what a request says of its reasoning, and to what it does not go
    with; one that the request names is refused then. Raises RequestError that names the field.
    """
    named = payload.pop(POLICY, None)
    if named is None:
        policy = _of_tier(payload, endpoint, answers, plan)
    else:
        policy = _named(payload, endpoint, named)
    if policy is None:
        return None, plan
    if plan is not None and policy.policy is AnswerPolicy.DIRECT:
        plan = replace(plan, enabled=False)
    return policy, plan


def _named(payload: Mapping[str, Any], endpoint: Endpoint, named: object) -> PolicyPlan:
    policy = _read(named)
    if endpoint is not CHAT_COMPLETIONS:
        raise invalid(
            f"`{POLICY}` is a field of chat completions: leave it out here, or use "
            "POST /v1/chat/completions.",
            param=POLICY,
        )
    if conflict := _conflict(payload, endpoint, policy):
        raise invalid(f"`{POLICY}` {policy} {conflict}", param=POLICY)
    return PolicyPlan(policy)


def _of_tier(
    payload: Mapping[str, Any],
    endpoint: Endpoint,
    answers: AnswersConfig,
    plan: ThinkingPlan | None,
) -> PolicyPlan | None:
    policy = answers.policy
    if policy is AnswerPolicy.TRUNCATE or plan is None:
        return None
    if _conflict(payload, endpoint, policy) is not None:
        return None
    return PolicyPlan(policy)


def _read(named: object) -> AnswerPolicy:
    if not isinstance(named, str) or named not in list(AnswerPolicy):
        names = ", ".join(AnswerPolicy)
        raise invalid(f"`{POLICY}` must be one of {names}.", param=POLICY)
    return AnswerPolicy(named)


def _conflict(payload: Mapping[str, Any], endpoint: Endpoint, policy: AnswerPolicy) -> str | None:
    """What of the request the policy does not go with, and what to do."""
    if policy is AnswerPolicy.DIRECT and asks_for_reasoning(payload, endpoint):
        return "has no reasoning, and this request asks for some: leave one of the two out."
    return None
