"""The problems against a second calculation, which reads the numbers from the text alone."""

import ast
import operator
import random
import re
from collections.abc import Callable

import pytest

from loadtest.studies.micro_r1.frames import FRAMES_BY_STEPS
from loadtest.studies.micro_r1.problems import (
    Problem,
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
# By words that only this frame's text has; the numbers in the text's order.
SOLUTIONS: dict[str, Callable[..., int]] = {
    "and gets": lambda a, b: a + b,
    "and gives .* are left": lambda a, b: a - b,
    "Then .* loses": lambda a, b, c: a + b - c,
    "It sells": lambda a, b, c: a - b - c,
    "already owns": lambda a, b, c: a * b + c,
    "shares": lambda a, b, c: a // b + c,
    "rows of": lambda a, b, c: a * b - c,
    "A train": lambda a, b, c: a - b + c,
    "dollars an hour": lambda a, b, c: a * b - c,
    "put all of them into bags": lambda a, b, c: (a + b) // c,
    "A baker": lambda a, b, c: (a - b) // c,
    "pages on Monday": lambda a, b: a + a * b,
    "years older": lambda a, b: a + a + b,
    "A rope": lambda a, b, c: a - b * c,
    "dollars each and pays": lambda a, b, c: c - a * b,
    "equal piles": lambda a, b, c, d: (a + b - c) // d,
    "packs of .* packs of": lambda a, b, c, d: a * b + c * d,
    "hens": lambda a, b, c, d: (a + b) * c - d,
    "A bus": lambda a, b, c, d: a + b - c + d,
    "dollars a week": lambda a, b, c, d: a * b + c - d,
    "fewer than": lambda a, b, c: a + a * b - c,
    "A library": lambda a, b, c, d: a + b - c + d,
    "A ticket": lambda a, b, c, d: a * c + b * d,
    "loose ones": lambda a, b, c, d: (a - b) * c + d,
    "A tank": lambda a, b, c, d: a - b * c + d,
    "on Sunday": lambda a, b, c, d: a * b + c - d,
    "A pen": lambda a, b, c: c - a - (a + b),
}


def value(expression: str) -> int:
    def of(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](of(node.left), of(node.right))
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return node.value

    return of(ast.parse(expression, mode="eval").body)


def solve(text: str) -> int:
    if bare := re.fullmatch(r"What is (.*)\?", text):
        return value(bare[1])
    [solution] = [s for words, s in SOLUTIONS.items() if re.search(words, text)]
    return solution(*map(int, re.findall(r"\d+", text)))


def many(count: int) -> list[Problem]:
    rng = random.Random(7)
    return [draw_problem(rng, 1 + at % 3) for at in range(count)]


def test_each_answer_is_what_the_text_asks_for() -> None:
    for problem in many(3000):
        assert problem.result == solve(problem.text), problem.text
        assert re.findall(r"\\boxed\{(.*?)\}\.$", problem.answer) == [str(problem.result)]


def test_each_equation_of_a_thought_holds() -> None:
    for problem in many(1000):
        chains = re.findall(r"[\d+*/=-]*\d=[\d+*/=-]*\d", problem.thought)
        assert len(chains) == 2 * problem.steps
        for chain in chains:
            assert len({value(link) for link in chain.split("=")}) == 1, chain
        assert problem.thought.endswith(f"So the result is {problem.result}.")


@pytest.mark.parametrize(
    ("equation", "chain"),
    [
        ((47, "+", 38), "47+38=47+30+8=77+8=85"),
        ((85, "-", 38), "85-38=85-30-8=55-8=47"),
        ((47, "+", 8), "47+8=55"),
        ((47, "+", 30), "47+30=77"),
        ((23, "*", 4), "23*4=20*4+3*4=80+12=92"),
        ((6, "*", 7), "6*7=42"),
        ((84, "/", 7), "84/7=12"),
    ],
)
def test_steps_are_worked_out_place_by_place(equation: tuple[int, str, int], chain: str) -> None:
    assert work_out(*equation) == chain


def test_more_steps_take_a_longer_thought() -> None:
    mean = [sum(len(p.thought) for p in many(600) if p.steps == steps) / 200 for steps in (1, 2, 3)]
    assert mean[0] < mean[1] < mean[2]


def test_a_seed_gives_the_same_problems() -> None:
    assert held_out_problems(3, 50) == held_out_problems(3, 50)
    assert held_out_problems(3, 50) != held_out_problems(4, 50)
    first, again = (training_problems(3, frozenset()) for _ in range(2))
    assert [next(first) for _ in range(50)] == [next(again) for _ in range(50)]


def test_held_out_problems_are_different_and_of_two_and_three_steps() -> None:
    problems = held_out_problems(1)
    assert len({problem.text for problem in problems}) == 500
    assert [problem.steps for problem in problems[:4]] == [2, 3, 2, 3]


def test_training_leaves_out_what_is_held_out() -> None:
    drawn = training_problems(5, frozenset())
    texts = [next(drawn).text for _ in range(2000)]
    left_out = frozenset(texts[::2])
    kept = training_problems(5, left_out)
    assert not left_out & {next(kept).text for _ in range(2000)}


def test_there_are_many_frames() -> None:
    assert len({frame.text for frames in FRAMES_BY_STEPS.values() for frame in frames}) >= 20
