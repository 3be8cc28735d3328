"""Where drafts end, on a runner of plain objects; tests/engine/vllm/test_speculation_vllm.py has
the real one."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.reasoning.lean import Lean
from serve_app.engine.vllm.drafting import (
    COMPARE_EVERY_STEPS,
    LOOK_EVERY_STEPS,
    STEPS_WITHOUT,
    Drafting,
    may_draft,
    room,
)
from serve_app.engine.vllm.lean_params import lean_to_end

END = 7


def parameters(**changed: Any) -> Any:
    plain: dict[str, Any] = {
        "seed": None,
        "temperature": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_p": 0.0,
        "logit_bias": None,
        "bad_words": None,
        "logprobs": None,
        "min_tokens": 0,
        "max_tokens": 100,
        "extra_args": None,
    }
    return SimpleNamespace(**plain | changed)


def a_runner(*params: Any, made: int = 3, left: int | None = None) -> Any:
    ids = [f"r{at}" for at in range(len(params))]
    holder = SimpleNamespace(tokens_to_draft=lambda at: left)
    return SimpleNamespace(
        input_batch=SimpleNamespace(req_ids=ids, thinking_budget_state_holder=holder),
        requests={
            one: SimpleNamespace(sampling_params=each, output_token_ids=[1] * made)
            for one, each in zip(ids, params, strict=True)
        },
    )


def scheduled(tokens: int, *drafts: int, goes_on: bool = True) -> Any:
    return SimpleNamespace(
        total_num_scheduled_tokens=tokens,
        scheduled_cached_reqs=SimpleNamespace(req_ids=["r0"] if goes_on else []),
        scheduled_spec_decode_tokens={f"r{at}": [1] * n for at, n in enumerate(drafts) if n},
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1, "temperature": 0.6},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -0.5},
        {"repetition_penalty": 1.1},
        {"min_p": 0.05},
        {"logit_bias": {3: 1.0}},
        {"bad_words": ["no"]},
        {"logprobs": 0},
        {"min_tokens": 4},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_is_sampled_otherwise_has_no_drafts(changed: dict[str, Any]) -> None:
    assert not may_draft(parameters(**changed), 3)
    assert room(a_runner(parameters(**changed)), 0, END, [1, 2]) == 0


def test_greedy_and_unseeded_requests_have_drafts() -> None:
    for changed in ({}, {"seed": 1}, {"temperature": 0.6}, {"min_tokens": 3}):
        assert may_draft(parameters(**changed), 3)


def test_drafts_end_before_the_end_of_a_reasoning_and_its_budget() -> None:
    runner = a_runner(parameters())
    assert room(runner, 0, END, [1, 2, 3]) == 3
    assert room(runner, 0, END, [1, END, 3]) == 1
    assert room(runner, 0, None, [1, END, 3]) == 3
    assert room(a_runner(parameters(), left=2), 0, END, [1, 2, 3]) == 2
    assert room(a_runner(parameters(), left=0), 0, END, [1, 2, 3]) == 0


def test_drafts_end_before_the_limit_of_tokens() -> None:
    assert room(a_runner(parameters(max_tokens=6)), 0, END, [1, 2, 3, 4]) == 2
    assert room(a_runner(parameters(max_tokens=4)), 0, END, [1, 2, 3, 4]) == 0


def test_a_reasoning_that_leans_has_no_drafts_and_its_answer_has() -> None:
    params = parameters()
    lean_to_end(params, Lean(5.0, 0.5))
    assert room(a_runner(params, left=50), 0, END, [1, 2]) == 0
    assert room(a_runner(params, left=None), 0, END, [1, 2]) == 2


class Engine:
    """Steps of one sequence that take 10 ms, and so many more for each draft, with `between_s` from
    each to the next."""

    def __init__(
        self, row_s: float, made: Sequence[int], offer: Sequence[int], between_s: float = 0.0
    ) -> None:
        self.now_s, self.row_s, self.made, self.offer = 0.0, row_s, list(made), list(offer)
        self.between_s = between_s
        self.drafting = Drafting(END, measured=True, clock_s=lambda: self.now_s)
        self.runner, self.drafts = a_runner(parameters(max_tokens=10**9)), 0
        self.verified: list[int] = []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            step = scheduled(1 + self.drafts, self.drafts)
            self.drafting.step_begins(step)
            self.now_s += 0.01 + self.row_s * self.drafts
            made = [self.made[: 1 + self.drafts]]
            if not self.drafting.needs_drafts():
                self.drafting.skipped(self.runner, step, made)
                self.drafts = 0
            else:
                (left,) = self.drafting.limited(self.runner, step, made, [self.offer])
                self.drafts = len(left)
            self.verified.append(self.drafts)
            self.now_s += self.between_s


def test_drafts_that_are_accepted_are_verified_where_rows_are_cheap() -> None:
    engine = Engine(0.0005, made=[1, 2, 3, 4], offer=[1, 2, 3])
    engine.run(300)
    assert sum(length == 3 for length in engine.verified[50:]) > 0.9 * 250


@pytest.mark.parametrize(
    ("row_s", "made"), [(0.02, [1, 2, 3, 4]), (0.001, [9, 9, 9, 9])], ids=["dear", "wrong"]
)
def test_where_drafts_do_not_pay_next_to_none_are_verified(row_s: float, made: list[int]) -> None:
    engine = Engine(row_s, made=made, offer=[1, 2, 3])
    engine.run(STEPS_WITHOUT + 400)
    late = engine.verified[100:]
    assert sum(length > 0 for length in late) <= len(late) / COMPARE_EVERY_STEPS + 2
    assert not engine.drafting.needs_drafts() or engine.drafting.steps % LOOK_EVERY_STEPS == 0


def test_drafts_save_the_time_between_steps_too() -> None:
    """A draft is right, and costs a little more than a step: it pays where 10 ms lie between two
    steps, and does not where there is nothing."""
    for between_s, pays in ((0.01, True), (0.0, False)):
        engine = Engine(0.0105, made=[1, 2], offer=[1], between_s=between_s)
        engine.run(400)
        verified = sum(length > 0 for length in engine.verified[100:])
        assert (verified > 0.9 * 300) is pays, between_s


def test_a_step_that_reads_a_prompt_teaches_no_cost() -> None:
    engine = Engine(0.0, made=[1], offer=[1])
    engine.drafting.limited(engine.runner, scheduled(40), [[1]], [[1]])
    engine.drafting.step_begins(scheduled(1))
    assert engine.drafting.costs == {}


def test_an_engine_that_waited_for_requests_learns_nothing_of_it() -> None:
    engine = Engine(0.0, made=[1], offer=[])
    engine.run(3)
    known = dict(engine.drafting.costs)
    engine.now_s += 100.0
    engine.drafting.step_begins(scheduled(30, goes_on=False))
    assert engine.drafting.costs == known


def test_the_first_step_of_each_size_teaches_nothing() -> None:
    """Whatever it took: kernels for so many rows may have been generated in it."""
    engine = Engine(0.0, made=[1], offer=[], between_s=50.0)
    engine.run(1)
    engine.between_s = 0.0
    engine.run(20)
    (cost,) = engine.drafting.costs.values()
    assert cost.plain_s == pytest.approx(0.01)
