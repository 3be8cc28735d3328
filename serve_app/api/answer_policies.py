"""Which answer policy a request gets: its tier's, or the one that it names in `answer_policy`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serve_app.api.routes import CHAT_COMPLETIONS, Endpoint
from serve_app.api.structures import binding_field
from serve_app.api.token_budget import asks_for_reasoning
from serve_app.config.answers import AnswersConfig
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.errors import invalid

POLICY = "answer_policy"
LEAST_SAMPLES = 2


def take_policy(
    payload: dict[str, Any],
    endpoint: Endpoint,
    answers: AnswersConfig,
    plan: ThinkingPlan | None,
    slots: int,
) -> tuple[PolicyPlan | None, ThinkingPlan | None]:
    """The policy, with the request's field for it taken out, and the plan of its reasoning under
    it. None for what is as without policies.

    The tier's own gives way to what a request says of its reasoning, and to what it does not go
    with; one that the request names is refused then. Raises RequestError that names the field.
    """
    named = payload.pop(POLICY, None)
    policy = answers.policy if named is None else _read(named)
    conflict = _conflict(payload, endpoint, policy, plan, slots)
    if named is None:
        # Without a plan there is no reasoning to end, and a prompt may be the client's own.
        unplanned = plan is None and policy is not AnswerPolicy.VOTE
        if policy is AnswerPolicy.TRUNCATE or unplanned or conflict is not None:
            return None, plan
    elif endpoint is not CHAT_COMPLETIONS:
        raise invalid(
            f"`{POLICY}` is a field of chat completions: leave it out here, or use "
            "POST /v1/chat/completions.",
            param=POLICY,
        )
    elif conflict is not None:
        raise invalid(f"`{POLICY}` {policy} {conflict}", param=POLICY)
    if plan is not None and policy is AnswerPolicy.DIRECT:
        plan = replace(plan, enabled=False)
    return _planned(policy, answers, slots), plan


def _read(named: object) -> AnswerPolicy:
    if not isinstance(named, str) or named not in list(AnswerPolicy):
        names = ", ".join(AnswerPolicy)
        raise invalid(f"`{POLICY}` must be one of {names}.", param=POLICY)
    return AnswerPolicy(named)


def _planned(policy: AnswerPolicy, answers: AnswersConfig, slots: int) -> PolicyPlan:
    if policy is AnswerPolicy.EARLY_EXIT:
        return PolicyPlan(policy, answers.trial_every_tokens, answers.trial_tokens)
    if policy is AnswerPolicy.VOTE:
        return PolicyPlan(policy, samples=min(answers.vote_samples, slots))
    return PolicyPlan(policy)


def _conflict(
    payload: Mapping[str, Any],
    endpoint: Endpoint,
    policy: AnswerPolicy,
    plan: ThinkingPlan | None,
    slots: int,
) -> str | None:
    """What of the request the policy does not go with, and what to do."""
    if policy is AnswerPolicy.DIRECT and asks_for_reasoning(payload, endpoint):
        return "has no reasoning, and this request asks for some: leave one of the two out."
    if policy in (AnswerPolicy.TRUNCATE, AnswerPolicy.DIRECT):
        return None
    if endpoint is not CHAT_COMPLETIONS:
        return "is for chat completions."
    if payload.get("n") not in (None, 1) or payload.get("use_beam_search"):
        return "is for one answer: leave `n` and `use_beam_search` out, or this policy."
    if policy is AnswerPolicy.VOTE:
        return _conflict_of_vote(payload, slots)
    return _conflict_of_exit(payload, endpoint, plan)


def _conflict_of_vote(payload: Mapping[str, Any], slots: int) -> str | None:
    if slots < LEAST_SAMPLES:
        return f"takes {LEAST_SAMPLES} slots, and a replica of this tier has {slots}."
    if payload.get("temperature") == 0:
        return "is for samples that differ, and at `temperature` 0 they do not: set another one."
    if payload.get("tools"):
        return "is for answers: leave `tools` out, or this policy."
    for field in ("logprobs", "top_logprobs", "prompt_logprobs", "echo"):
        if payload.get(field) not in (None, False):
            return f"is of several samples: leave `{field}` out, or this policy."
    return None


def _conflict_of_exit(
    payload: Mapping[str, Any], endpoint: Endpoint, plan: ThinkingPlan | None
) -> str | None:
    if plan is None:
        return "is for a model that reasons, and this tier's does not: leave it out."
    if binding_field(payload, endpoint.name) is not None:
        return "is for answers in words: leave it out where tools or a schema bind the answer."
    return None
