"""Arithmetic word problems with the thought that solves them, drawn by a seeded generator."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.studies.micro_r1.frames import FRAMES_BY_STEPS, NAMES, PLACES, THINGS, Frame

HELD_OUT_COUNT = 500
# One-step problems are the easy part of training; the held-out ones have two or three steps.
_STEPS_IN_TRAINING = (1, 2, 2, 2, 2, 3, 3, 3, 3, 3)
_GREATEST_RESULT = 400
_GREATEST_QUOTIENT = 12


@dataclass(frozen=True)
class Problem:
    text: str
    steps: int
    thought: str
    # One sentence; the boxed number follows it.
    conclusion: str
    result: int

    @property
    def answer(self) -> str:
        return f"{self.conclusion} The answer is \\boxed{{{self.result}}}."


def draw_problem(rng: random.Random, steps: int) -> Problem:
    """A problem of so many steps, all of whose results are whole and above 0."""
    frame = rng.choice(FRAMES_BY_STEPS[steps])
    while True:
        values = _draw_values(rng, frame)
        equations = _solve(frame, values)
        if equations is not None:
            return _write(rng, frame, values, equations)


def training_problems(seed: int, held_out: frozenset[str]) -> Iterator[Problem]:
    """Without end; no text of them is in `held_out`."""
    rng = random.Random(seed)
    while True:
        problem = draw_problem(rng, rng.choice(_STEPS_IN_TRAINING))
        if problem.text not in held_out:
            yield problem


def held_out_problems(seed: int, count: int = HELD_OUT_COUNT) -> list[Problem]:
    """Different texts, two and three steps in turn."""
    rng = random.Random(f"held-out {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        problem = draw_problem(rng, 2 + len(problems) % 2)
        problems.setdefault(problem.text, problem)
    return list(problems.values())


def work_out(left: int, operator: str, right: int) -> str:
    """`47+38=47+30+8=77+8=85`: no link of the chain asks for more than one carry.

    Without spaces, each of which would be a token of its own.
    """
    if operator == "*":
        return _multiply(left, right)
    if operator == "/":
        return f"{left}/{right}={left // right}"
    parts = _places(right)
    links = [f"{left}{operator}{right}"] if len(parts) > 1 else []
    while parts:
        links.append(operator.join(str(number) for number in (left, *parts)))
        left += parts.pop(0) * (1 if operator == "+" else -1)
    return "=".join([*links, str(left)])


def calculate(left: int, operator: str, right: int) -> int | None:
    """None where the result is not of the kind that the model is to learn."""
    if operator == "/":
        quotient, rest = divmod(left, right)
        return quotient if rest == 0 and 2 <= quotient <= _GREATEST_QUOTIENT else None
    result = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return result if 0 < result <= _GREATEST_RESULT else None


def _multiply(left: int, right: int) -> str:
    parts = _places(left)
    if len(parts) == 1:
        return f"{left}*{right}={left * right}"
    split = "+".join(f"{part}*{right}" for part in parts)
    products = "+".join(str(part * right) for part in parts)
    return f"{left}*{right}={split}={products}={left * right}"


def _places(number: int) -> list[int]:
    """126 as 100, 20, 6."""
    digits = str(number)
    return [int(d) * 10 ** (len(digits) - at - 1) for at, d in enumerate(digits) if d != "0"]


def _draw_values(rng: random.Random, frame: Frame) -> dict[str, int]:
    values: dict[str, int] = {}
    for entry in frame.ranges.split():
        letter, limits = entry.split(":")
        least, greatest = limits.split("-")
        values[letter] = rng.randint(int(least), int(greatest))
    return values


def _solve(frame: Frame, values: dict[str, int]) -> list[tuple[int, str, int, int]] | None:
    known = dict(values)
    equations: list[tuple[int, str, int, int]] = []
    for _, operation in frame.steps:
        left, operator, right = operation.split()
        result = calculate(known[left], operator, known[right])
        if result is None:
            return None
        equations.append((known[left], operator, known[right], result))
        known[f"r{len(equations)}"] = result
    return equations


def _write(
    rng: random.Random,
    frame: Frame,
    values: dict[str, int],
    equations: list[tuple[int, str, int, int]],
) -> Problem:
    name, friend, third = rng.sample(NAMES, 3)
    words = {
        "name": name,
        "friend": friend,
        "third": third,
        "thing": rng.choice(THINGS),
        "place": rng.choice(PLACES),
    }
    result = equations[-1][3]
    sentences = [
        f"{lead.format(**words)}: {work_out(left, operator, right)}."
        for (lead, _), (left, operator, right, _) in zip(frame.steps, equations, strict=True)
    ]
    check = ", ".join(f"{left}{sign}{right}={end}" for left, sign, right, end in equations)
    sentences.append(f"Check: {check}. So the result is {result}.")
    return Problem(
        text=frame.text.format(**words, **values),
        steps=len(equations),
        thought=" ".join(sentences),
        conclusion=frame.answer.format(**words, r=result),
        result=result,
    )
