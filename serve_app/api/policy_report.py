"""What a response says of its answer policy, and its usage with the tokens that no client sees."""

import json
from typing import Any

from serve_app.core.generation import Generation
from serve_app.core.reasoning.answer_policy import AnswerPolicy
from serve_app.core.reasoning.pair import SIDES
from serve_app.core.reasoning.trace import ThoughtEnd

_EVENT_END = b"\n\n"
_USAGE = b'"usage":{'


def policy_report(generation: Generation) -> dict[str, Any]:
    """`tierserve.answer_policy`; empty for a request without a policy."""
    plan = generation.policy
    if plan is None:
        return {}
    report: dict[str, Any] = {"policy": str(plan.policy)}
    if plan.policy in (AnswerPolicy.EARLY_EXIT, AnswerPolicy.PAIR):
        report |= _of_trials(generation, plan.policy)
    if plan.policy is AnswerPolicy.LEAN:
        report |= _of_lean(generation)
    if plan.policy is AnswerPolicy.VOTE:
        report |= _of_vote(generation, plan.samples)
    return report


def count_all(usage: dict[str, Any], generation: Generation) -> None:
    """Add to a usage of OpenAI's what was made beside the answer."""
    made, reasoning = made_unseen(generation)
    if not made or not isinstance(usage.get("completion_tokens"), int):
        return
    usage["completion_tokens"] += made
    usage["total_tokens"] += made
    details = usage.get("completion_tokens_details")
    if isinstance(details, dict) and isinstance(details.get("reasoning_tokens"), int):
        details["reasoning_tokens"] += reasoning


def count_all_in_chunk(body: bytes, generation: Generation) -> bytes:
    """The same in the events of a stream that have a usage."""
    if _USAGE not in body or not generation.unseen:
        return body
    return _EVENT_END.join(_counted(event, generation) for event in body.split(_EVENT_END))


def made_unseen(generation: Generation) -> tuple[int, int]:
    """Tokens beside the answer, and those of them that are reasoning."""
    unseen = generation.unseen
    thoughts = [facts.thought for facts in unseen]
    reasoning = sum(thought.tokens for thought in thoughts if thought is not None)
    return sum(facts.tokens for facts in unseen), reasoning


def _of_trials(generation: Generation, policy: AnswerPolicy) -> dict[str, Any]:
    """What is saved is what of the budget was not used, less what was made beside: at most so much,
    for the model might have ended by itself. A pair's direct answer is made beside the other one
    until the two agree; then it is the answer itself."""
    made, _ = made_unseen(generation)
    thoughts = [facts.thought for facts in generation.sequences.values()]
    thought = thoughts[0] if thoughts else None
    exited = thought is not None and thought.cut_by == str(policy)
    saved = 0
    if exited and thought is not None and thought.budget_tokens is not None:
        saved = max(0, thought.budget_tokens - thought.tokens - made)
    trials = [facts for facts in generation.unseen if facts is not generation.direct]
    report: dict[str, Any] = {
        "trials": len(trials),
        "trial_tokens": sum(facts.tokens for facts in trials),
        "agreed": exited,
        "saved_tokens": saved,
    }
    if policy is AnswerPolicy.PAIR:
        direct = generation.direct
        report |= {"samples": SIDES, "direct_tokens": 0 if direct is None else direct.tokens}
    return report


def _of_lean(generation: Generation) -> dict[str, Any]:
    """Of all sequences. Saved is, at most, what those that ended themselves left of their
    budgets."""
    thoughts = [facts.thought for facts in generation.sequences.values()]
    ended = [thought for thought in thoughts if thought and thought.end is ThoughtEnd.COMPLETE]
    saved = sum(max(0, (thought.budget_tokens or 0) - thought.tokens) for thought in ended)
    return {"ended_itself": len(ended), "saved_tokens": saved}


def _of_vote(generation: Generation, samples: int) -> dict[str, Any]:
    """Saved is, at most, what the samples that were not needed could still have had."""
    found = generation.verdict
    if found is None:
        return {"samples": samples}
    return {
        "samples": samples,
        "finished": found.samples,
        "agreeing": found.agreeing,
        "agreement": round(found.agreeing / found.samples, 3),
        "saved_tokens": generation.saved_tokens,
    }


def _counted(event: bytes, generation: Generation) -> bytes:
    before, mark, data = event.partition(b"data: ")
    if _USAGE not in data:
        return event
    content: dict[str, Any] = json.loads(data)
    count_all(content["usage"], generation)
    return before + mark + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
