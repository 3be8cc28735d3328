"""What a response says of its answer policy, and the tokens that it counts."""

import json

import pytest

from serve_app.api.policy_report import count_all, count_all_in_chunk, policy_report
from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from serve_app.core.reasoning.trace import ThoughtEnd, ThoughtMarks, ThoughtTrace

MARKS = ThoughtMarks(1, 2, (1,), (7, 2), (2,))
EXIT = PolicyPlan(AnswerPolicy.EARLY_EXIT)


def exited(cut_by: str | None, *, tokens: int = 40) -> Generation:
    end = ThoughtEnd.COMPLETE if cut_by is None else ThoughtEnd.CUT
    thought = ThoughtTrace(MARKS, 100, tokens=tokens, end=end, cut_by=cut_by)
    unseen = [SequenceFacts(tokens=4), SequenceFacts(tokens=6)]
    return Generation(policy=EXIT, sequences={0: SequenceFacts(thought, tokens=60)}, unseen=unseen)


def test_what_an_early_exit_saves_is_less_what_its_trials_took() -> None:
    assert policy_report(exited("early_exit")) == {
        "policy": "early_exit",
        "trials": 2,
        "trial_tokens": 10,
        "agreed": True,
        "saved_tokens": 100 - 40 - 10,
    }
    assert policy_report(exited("early_exit", tokens=95))["saved_tokens"] == 0


@pytest.mark.parametrize("cut_by", [None, "deadline"])
def test_reasoning_that_others_have_ended_saves_nothing(cut_by: str | None) -> None:
    report = policy_report(exited(cut_by))
    assert (report["agreed"], report["saved_tokens"]) == (False, 0)


def test_a_pair_that_agrees_has_its_direct_answer_as_the_answer() -> None:
    generation = exited("pair")
    generation.policy = PolicyPlan(AnswerPolicy.PAIR, samples=2)
    generation.direct = SequenceFacts(tokens=15)
    report = {
        "policy": "pair",
        "trials": 2,
        "trial_tokens": 10,
        "agreed": True,
        "saved_tokens": 100 - 40 - 10,
        "samples": 2,
        "direct_tokens": 15,
    }
    assert policy_report(generation) == report


def test_a_pair_that_differs_has_made_its_direct_answer_in_vain() -> None:
    generation = exited(None)
    generation.policy = PolicyPlan(AnswerPolicy.PAIR, samples=2)
    generation.direct = SequenceFacts(tokens=15)
    generation.unseen.append(generation.direct)
    report = policy_report(generation)
    assert (report["trials"], report["trial_tokens"], report["direct_tokens"]) == (2, 10, 15)
    assert (report["agreed"], report["saved_tokens"]) == (False, 0)


def test_reasoning_that_was_led_to_its_end_saves_what_it_left() -> None:
    generation = exited(None)
    generation.policy, generation.unseen = PolicyPlan(AnswerPolicy.LEAN), []
    assert policy_report(generation) == {"policy": "lean", "ended_itself": 1, "saved_tokens": 60}
    budget = exited("budget")
    budget.policy = generation.policy
    assert policy_report(budget) == {"policy": "lean", "ended_itself": 0, "saved_tokens": 0}


def test_a_request_without_a_policy_has_no_report() -> None:
    assert policy_report(Generation()) == {}
    assert policy_report(Generation(policy=PolicyPlan(AnswerPolicy.DIRECT))) == {"policy": "direct"}


def test_a_vote_that_is_not_decided_says_what_was_asked() -> None:
    plan = PolicyPlan(AnswerPolicy.VOTE, samples=4)
    assert policy_report(Generation(policy=plan)) == {"policy": "vote", "samples": 4}


def test_tokens_that_nobody_sees_are_counted_with_their_reasoning() -> None:
    generation = exited("early_exit")
    thought = ThoughtTrace(MARKS, 100, tokens=3, end=ThoughtEnd.COMPLETE)
    generation.unseen.append(SequenceFacts(thought, tokens=8))
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 60,
        "total_tokens": 65,
        "completion_tokens_details": {"reasoning_tokens": 40},
    }
    count_all(usage, generation)
    assert usage == {
        "prompt_tokens": 5,
        "completion_tokens": 78,
        "total_tokens": 83,
        "completion_tokens_details": {"reasoning_tokens": 43},
    }


def test_only_events_with_a_usage_are_written_anew() -> None:
    generation = exited("early_exit")
    plain = b'data: {"choices":[{"delta":{"content":"\\"usage\\":{"}}],"usage":null}\n\n'
    assert count_all_in_chunk(plain, generation) == plain
    usage = {"prompt_tokens": 5, "completion_tokens": 60, "total_tokens": 65}
    counted = b"data: " + json.dumps({"usage": usage}, separators=(",", ":")).encode() + b"\n\n"
    body = count_all_in_chunk(plain + counted, generation)
    assert body.startswith(plain)
    found = json.loads(body[len(plain) :].removeprefix(b"data: "))
    assert found["usage"] == {"prompt_tokens": 5, "completion_tokens": 70, "total_tokens": 75}
    assert body.endswith(b"\n\n")
    assert count_all_in_chunk(counted, Generation(policy=EXIT)) == counted
