"""Which answer policy a request gets: its tier's, or the one that it names in `answer_policy`.

A name may have a number behind it, as in `vote:2`: fewer samples or trial answers than the tier's,
or another bias.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serve_app.api.routes import CHAT_COMPLETIONS, Endpoint
from serve_app.api.structures import binding_field
from serve_app.api.token_budget import asks_for_reasoning
from serve_app.config.answers import AnswersConfig
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.core.reasoning.pair import SIDES
from serve_app.errors import invalid

POLICY = "answer_policy"
LEAST_SAMPLES = 2
# What the number behind a name is; the others take none.
PARAMETERS = {
    AnswerPolicy.LEAN: "logits at the budget's end",
    AnswerPolicy.VOTE: "samples",
    AnswerPolicy.EARLY_EXIT: "tokens from one trial answer to the next",
    AnswerPolicy.PAIR: "tokens from one trial answer to the next",
}
MOST_BIAS = 100
# A client sends no more; what is longer is not read.
_MOST_DIGITS = 6
_WITHOUT_REASONING = "is for a model that reasons, and this tier's does not: leave it out."


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
    policy, parameter = (answers.policy, None) if named is None else _read(named)
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
    return _planned(policy, parameter, answers, slots), plan


def _read(named: object) -> tuple[AnswerPolicy, int | None]:
    """The policy, and the number behind its name."""
    name, colon, number = named.partition(":") if isinstance(named, str) else ("", "", "")
    if name not in list(AnswerPolicy):
        names = ", ".join(AnswerPolicy)
        raise invalid(f"`{POLICY}` must be one of {names}.", param=POLICY)
    policy = AnswerPolicy(name)
    if not colon:
        return policy, None
    if policy not in PARAMETERS:
        raise invalid(f"`{POLICY}` {policy} has no number: write `{policy}`.", param=POLICY)
    if not (number.isascii() and number.isdigit() and len(number) <= _MOST_DIGITS):
        example = {AnswerPolicy.VOTE: LEAST_SAMPLES, AnswerPolicy.LEAN: 8}.get(policy, 64)
        raise invalid(
            f"`{POLICY}` {policy} may have a whole number of {PARAMETERS[policy]} behind it, as in "
            f"`{policy}:{example}`.",
            param=POLICY,
        )
    return policy, int(number)


def _planned(
    policy: AnswerPolicy, parameter: int | None, answers: AnswersConfig, slots: int
) -> PolicyPlan:
    """Raises RequestError for a number beyond what the tier spends on a request."""
    if policy is AnswerPolicy.VOTE:
        most = min(answers.vote_samples, slots)
        samples = most if parameter is None else parameter
        _within(policy, samples, LEAST_SAMPLES, most)
        return PolicyPlan(policy, samples=samples)
    if policy in (AnswerPolicy.EARLY_EXIT, AnswerPolicy.PAIR):
        least = answers.trial_every_tokens
        every = least if parameter is None else parameter
        _within(policy, every, least, None)
        sides = SIDES if policy is AnswerPolicy.PAIR else 1
        return PolicyPlan(policy, every, answers.trial_tokens, sides)
    if policy is AnswerPolicy.LEAN:
        bias = answers.lean_bias if parameter is None else parameter
        _within(policy, bias, 0, MOST_BIAS)
        return PolicyPlan(policy, lean_most=bias, lean_begins_at=answers.lean_from)
    return PolicyPlan(policy)


def _within(policy: AnswerPolicy, number: float, least: int, most: int | None) -> None:
    if number < least or (most is not None and number > most):
        bounds = f"from {least} on" if most is None else f"{least} to {most}"
        raise invalid(
            f"`{POLICY}` {policy} takes {bounds} {PARAMETERS[policy]} in this tier, not {number}.",
            param=POLICY,
        )


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
    if policy is AnswerPolicy.LEAN:
        return _WITHOUT_REASONING if plan is None else None
    if endpoint is not CHAT_COMPLETIONS:
        return "is for chat completions."
    if payload.get("n") not in (None, 1) or payload.get("use_beam_search"):
        return "is for one answer: leave `n` and `use_beam_search` out, or this policy."
    if policy is AnswerPolicy.VOTE:
        return _conflict_of_vote(payload, slots)
    conflict = _conflict_of_exit(payload, endpoint, plan)
    if policy is AnswerPolicy.PAIR and conflict is None:
        return _conflict_of_pair(payload, plan, slots)
    return conflict


def _conflict_of_vote(payload: Mapping[str, Any], slots: int) -> str | None:
    if payload.get("temperature") == 0:
        return "is for samples that differ, and at `temperature` 0 they do not: set another one."
    if payload.get("tools"):
        return "is for answers: leave `tools` out, or this policy."
    return _conflict_of_samples(payload, slots)


def _conflict_of_pair(
    payload: Mapping[str, Any], plan: ThinkingPlan | None, slots: int
) -> str | None:
    if plan is not None and (not plan.enabled or plan.most_tokens == 0):
        return "compares an answer with reasoning, and this request has none: leave one out."
    return _conflict_of_samples(payload, slots)


def _conflict_of_samples(payload: Mapping[str, Any], slots: int) -> str | None:
    if slots < LEAST_SAMPLES:
        return f"takes {LEAST_SAMPLES} slots, and a replica of this tier has {slots}."
    for field in ("logprobs", "top_logprobs", "prompt_logprobs", "echo"):
        if payload.get(field) not in (None, False):
            return f"is of several samples: leave `{field}` out, or this policy."
    return None


def _conflict_of_exit(
    payload: Mapping[str, Any], endpoint: Endpoint, plan: ThinkingPlan | None
) -> str | None:
    if plan is None:
        return _WITHOUT_REASONING
    if binding_field(payload, endpoint.name) is not None:
        return "is for answers in words: leave it out where tools or a schema bind the answer."
    return None
