"""The simulated engine against sums that can be done by hand."""

import pytest

from loadtest.simulation.replica import STEP_TOKENS, Replica
from loadtest.simulation.trace import Request
from serve_app.core.step_time import StepModel
from serve_app.core.tiers import Tier
from serve_app.core.work import LearntLengths

MODEL = StepModel(base_ms=10, per_sequence_ms=1, per_prompt_token_ms=0.1)


def a_replica() -> Replica:
    return Replica("T4", MODEL, 8, LearntLengths(100, 10), ready_s=0.0)


def a_request(prompt_tokens: int = 100, new_tokens: int = 5) -> Request:
    return Request(Tier.CHAT, 0.0, prompt_tokens, new_tokens, 1024)


def run_dry(replica: Replica) -> dict[Request, float]:
    """When each request ended."""
    ended: dict[Request, float] = {}
    while (now_s := replica.stride_end_s) is not None:
        ended |= dict.fromkeys(replica.end_stride(now_s), now_s)
    return ended


def test_one_request_alone() -> None:
    """A prefill step of 10 + 0.1 x 100 ms yields the first token; four steps of 11 ms the rest."""
    replica, request = a_replica(), a_request()
    replica.take(request, 2.0)
    assert run_dry(replica)[request] == pytest.approx(2.0 + 0.020 + 4 * 0.011)
    assert request.started_s == 2.0


def test_one_that_joins_waits_for_the_step_that_runs() -> None:
    replica, first, second = a_replica(), a_request(new_tokens=50), a_request(new_tokens=1)
    replica.take(first, 0.0)
    replica.end_stride(replica.stride_end_s or 0.0)
    replica.take(second, 0.025)
    ended = run_dry(replica)
    assert second.started_s == pytest.approx(0.031)
    assert ended[second] == pytest.approx(0.031 + 0.021)
    assert ended[first] == pytest.approx(0.020 + 48 * 0.011 + 0.021)


def test_a_long_prompt_takes_several_steps() -> None:
    replica, request = a_replica(), a_request(prompt_tokens=STEP_TOKENS + 48, new_tokens=1)
    replica.take(request, 0.0)
    assert run_dry(replica)[request] == pytest.approx(0.010 + 0.2048 + 0.010 + 0.0048)


def test_it_learns_the_lengths_of_what_ended() -> None:
    replica = a_replica()
    for _ in range(3):
        replica.take(a_request(prompt_tokens=40, new_tokens=7), 0.0)
    run_dry(replica)
    assert replica.running == 0
    assert (replica.lengths.prompt_tokens, replica.lengths.new_tokens(1024)) == (40, 7)
