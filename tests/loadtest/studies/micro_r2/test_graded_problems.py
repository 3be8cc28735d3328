"""Text, thought and working of a problem say the same, and its level is what it says."""

import ast
import operator
import random
import re
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.studies.micro_r2.problems import (
    DIFFICULTIES,
    HELD_OUT_OF_LEVEL,
    GradedProblem,
    Level,
    draw_equations,
    draw_problem,
    held_out_problems,
    training_problems,
    work_out,
)

OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
}
IN_WORDS = {
    "twice": 2,
    "half": 2,
    "a third": 3,
    "three times": 3,
    "a quarter": 4,
    "four times": 4,
    "a fifth": 5,
    "five times": 5,
}


def value(expression: str) -> int:
    def of(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](of(node.left), of(node.right))
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return node.value

    return of(ast.parse(expression, mode="eval").body)


@cache
def many(count: int) -> list[GradedProblem]:
    rng = random.Random(7)
    levels = tuple(Level)
    return [draw_problem(rng, levels[at % 3]) for at in range(count)]


def numbers_in(text: str) -> list[int]:
    words = "|".join(sorted(IN_WORDS, key=len, reverse=True))
    found = re.findall(rf"\d+|\b(?:{words})\b", text)
    return [IN_WORDS[n] if n in IN_WORDS else int(n) for n in found]


def test_the_working_is_worth_the_answer() -> None:
    for problem in many(600):
        assert value(problem.working) == problem.result, problem
        assert re.findall(r"\\boxed\{(.*?)\}\.$", problem.answer) == [str(problem.result)]
        assert problem.answer.startswith(f"{problem.working}={problem.result}. ")


def test_the_working_takes_its_numbers_from_the_text() -> None:
    for problem in many(600):
        numbers = numbers_in(problem.text)
        used = [int(number) for number in re.findall(r"\d+", problem.working)]
        # A frame such as "b times as many, and both together" needs a number twice.
        assert set(used) == set(numbers), problem
        assert len(re.findall(r"[-+*/]", problem.working)) == problem.steps


def test_a_chains_working_follows_the_text_from_left_to_right() -> None:
    chains = [problem for problem in many(600) if problem.thought.startswith("At first")]
    assert len(chains) > 200
    for problem in chains:
        assert numbers_in(problem.text) == [int(n) for n in re.findall(r"\d+", problem.working)]


def test_each_equation_of_a_thought_holds() -> None:
    for problem in many(600):
        chains = re.findall(r"\d[\d+*/=-]*=[\d+*/=-]*\d", problem.thought)
        passes = 1 + problem.thought.count("\n\n")
        assert len(chains) == passes * problem.steps
        for chain in chains:
            assert len({value(link) for link in chain.split("=")}) == 1, chain


def test_the_first_result_comes_before_all_checks() -> None:
    problems = many(600)
    for problem in problems:
        solving, checks = problem.thought[: problem.solved_at], problem.thought[problem.solved_at :]
        assert solving.endswith(f"So the result is {problem.result}.")
        assert not checks or checks.startswith("\n\nWait, let me check that.")
    checked = [problem.thought.count("\n\n") for problem in problems]
    assert set(checked) == {0, 1, 2, 3}
    assert 1.5 < sum(checked) / len(checked) < 2.5


def test_levels_differ_in_steps_and_size() -> None:
    for problem in many(600):
        difficulty = DIFFICULTIES[problem.level]
        assert problem.steps in difficulty.steps
        assert 0 < problem.result <= difficulty.greatest_result
        if problem.level is Level.EASY:
            assert problem.thought[: problem.solved_at].count("=") == 1


@pytest.mark.parametrize(
    ("equation", "chain"),
    [
        ((47, "+", 38), "47+38=77+8=85"),
        ((285, "+", 138), "285+138=385+38=415+8=423"),
        ((85, "-", 38), "85-38=55-8=47"),
        ((47, "+", 8), "47+8=55"),
        ((47, "+", 30), "47+30=77"),
        ((23, "*", 4), "23*4=80+12=92"),
        ((123, "*", 4), "123*4=400+80+12=480+12=492"),
        ((6, "*", 7), "6*7=42"),
        ((84, "/", 7), "84/7=12"),
    ],
)
def test_steps_are_worked_out_place_by_place(equation: tuple[int, str, int], chain: str) -> None:
    assert work_out(*equation) == chain


@given(left=st.integers(1, 999), right=st.integers(1, 999), sign=st.sampled_from("+-*"))
def test_all_links_of_a_chain_are_equal(left: int, right: int, sign: str) -> None:
    left += right if sign == "-" else 0
    links = work_out(left, sign, right).split("=")
    assert {value(link) for link in links} == {value(f"{left}{sign}{right}")}


def test_bare_equations_hold() -> None:
    for chain in draw_equations(random.Random(3), 500):
        assert len({value(link) for link in chain.split("=")}) == 1


def test_a_seed_gives_the_same_problems() -> None:
    assert held_out_problems(3, 20) == held_out_problems(3, 20)
    assert held_out_problems(3, 20) != held_out_problems(4, 20)
    first, again = (training_problems(3, frozenset()) for _ in range(2))
    assert [next(first) for _ in range(50)] == [next(again) for _ in range(50)]


def test_held_out_problems_are_different_and_of_all_levels() -> None:
    problems = held_out_problems(1)
    assert len({problem.text for problem in problems}) == 3 * HELD_OUT_OF_LEVEL >= 500
    for at, level in enumerate(Level):
        part = problems[at * HELD_OUT_OF_LEVEL : (at + 1) * HELD_OUT_OF_LEVEL]
        assert {problem.level for problem in part} == {level}


def test_training_leaves_out_what_is_held_out() -> None:
    drawn = training_problems(5, frozenset())
    texts = [next(drawn).text for _ in range(1000)]
    left_out = frozenset(texts[::2])
    kept = training_problems(5, left_out)
    assert not left_out & {next(kept).text for _ in range(1000)}
