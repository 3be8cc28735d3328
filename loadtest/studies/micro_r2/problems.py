"""Problems of three levels: micro-r1's frames and chains of changes, with the whole thought.

The thought works step by step, one equation a step; the answer's own working is one line, so that
without a thought all steps but the last have to be done in the head. That is what makes a problem
of several steps hard to answer directly. After its result a thought often goes on and checks.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from loadtest.studies.micro_r1.frames import FRAMES_BY_STEPS, NAMES, PLACES, THINGS, Frame
from loadtest.studies.micro_r1.problems import Problem
from loadtest.studies.micro_r2.stories import (
    CHANGES,
    FOLDS,
    PARTS,
    QUESTIONS,
    STARTS,
    Change,
    Question,
)


class Level(StrEnum):
    EASY = "easy"
    MEDIUM = "medium"
    HARD = "hard"


@dataclass(frozen=True)
class Difficulty:
    # Drawn from with equal chances.
    steps: tuple[int, ...]
    greatest_start: int
    # Of what is added or taken away.
    greatest_change: int
    greatest_result: int
    greatest_quotient: int
    # Only what is worked out in one go, such as 47+8, 47+30 and 6*7.
    single_place: bool = False


DIFFICULTIES: Mapping[Level, Difficulty] = {
    Level.EASY: Difficulty((1,), 99, 90, 180, 12, single_place=True),
    Level.MEDIUM: Difficulty((2,), 90, 60, 300, 12),
    Level.HARD: Difficulty((3, 3, 4), 120, 99, 500, 12),
}
HELD_OUT_OF_LEVEL = 200
_TRAINING_LEVELS = (*[Level.EASY] * 5, *[Level.MEDIUM] * 6, *[Level.HARD] * 9)
_CHAIN_SHARE = {1: 0.5, 2: 0.5, 3: 0.6, 4: 1.0}
# The chance of one more check after so many.
_CHECK_CHANCES = (0.9, 0.7, 0.5)
_CHECKS = (
    ("Wait, let me check that.", "Yes, it is {r}."),
    ("Hmm, let me go through it again.", "That gives {r} again."),
    ("One more time, to be sure.", "It stays {r}."),
)
_TENS_SHARE = 0.4
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_ATOM = 3


@dataclass(frozen=True)
class GradedProblem(Problem):
    level: Level
    # The steps as one expression, without its value.
    working: str
    # Characters of the thought until its first result.
    solved_at: int

    @property
    def answer(self) -> str:
        return (
            f"{self.working}={self.result}. {self.conclusion} "
            f"The answer is \\boxed{{{self.result}}}."
        )


@dataclass(frozen=True)
class _Step:
    lead: str
    left: int
    operator: str
    right: int
    result: int


@dataclass(frozen=True)
class _Solved:
    """A problem before its thought is written."""

    text: str
    opening: str
    steps: tuple[_Step, ...]
    working: str
    conclusion: str


def draw_problem(rng: random.Random, level: Level) -> GradedProblem:
    """A problem of this level, all of whose results are whole and above 0."""
    difficulty = DIFFICULTIES[level]
    steps = rng.choice(difficulty.steps)
    draw = _draw_chain if rng.random() < _CHAIN_SHARE[steps] else _draw_frame
    while True:
        solved = draw(rng, steps, difficulty)
        if solved is not None:
            return _write(rng, solved, level)


def training_problems(seed: int, held_out: frozenset[str]) -> Iterator[GradedProblem]:
    """Without end; no text of them is in `held_out`."""
    rng = random.Random(f"micro-r2 {seed}")
    while True:
        problem = draw_problem(rng, rng.choice(_TRAINING_LEVELS))
        if problem.text not in held_out:
            yield problem


def work_out(left: int, operator: str, right: int) -> str:
    """`47+38=77+8=85`: each link of the chain settles one decimal place of the right number."""
    if operator == "/":
        return f"{left}/{right}={left // right}"
    parts = _places(left if operator == "*" else right)
    if operator == "*":
        sums = [part * right for part in parts]
        links = [f"{left}*{right}"]
        while sums:
            links.append("+".join(map(str, sums)))
            sums = [sums[0] + sums[1], *sums[2:]] if len(sums) > 1 else []
        return "=".join(links)
    links: list[str] = []
    for at, part in enumerate(parts):
        links.append(f"{left}{operator}{sum(parts[at:])}")
        left += part if operator == "+" else -part
    return "=".join([*links, str(left)])


def draw_equations(rng: random.Random, count: int) -> list[str]:
    """Steps without a story, of all levels alike, worked out."""
    drawn: list[str] = []
    while len(drawn) < count:
        difficulty = DIFFICULTIES[rng.choice(tuple(Level))]
        operator = rng.choice("+++---**/")
        greatest = rng.choice((difficulty.greatest_start, difficulty.greatest_result))
        left = rng.randint(2, greatest if operator in "+-" else 60)
        right = rng.randint(2, difficulty.greatest_change if operator in "+-" else 9)
        if operator == "/":
            left = right * rng.randint(2, difficulty.greatest_quotient)
        if _calculate(left, operator, right, difficulty) is not None:
            drawn.append(work_out(left, operator, right))
    return drawn


def held_out_problems(seed: int, count: int = HELD_OUT_OF_LEVEL) -> list[GradedProblem]:
    """Different texts, so many of each level, the easy ones first."""
    drawn: list[GradedProblem] = []
    for level in Level:
        rng = random.Random(f"micro-r2 held-out {level} {seed}")
        problems: dict[str, GradedProblem] = {}
        while len(problems) < count:
            problem = draw_problem(rng, level)
            problems.setdefault(problem.text, problem)
        drawn += problems.values()
    return drawn


def _draw_chain(rng: random.Random, steps: int, difficulty: Difficulty) -> _Solved | None:
    words = _draw_words(rng)
    question = rng.choice(QUESTIONS)
    changes = [rng.choice(CHANGES) for _ in range(steps - (question.change is not None))]
    if question.change is not None:
        changes.append(question.change)
    value = rng.randint(3, difficulty.greatest_start)
    texts = [rng.choice(STARTS).format(**words, n=value)]
    opening = f"At first {value}."
    solved: list[_Step] = []
    working, precedence = str(value), _ATOM
    for change in changes:
        number = _draw_number(rng, change, question, difficulty)
        filled = words | {"n": str(number), "fold": FOLDS.get(number), "part": PARTS.get(number)}
        result = _calculate(value, change.operator, number, difficulty)
        if result is None:
            return None
        lead = change.lead.format(**filled)
        solved.append(_Step(lead, value, change.operator, number, result))
        texts.append(change.text.format(**filled))
        left = (working, precedence)
        working, precedence = _join(left, change.operator, (str(number), _ATOM))
        value = result
    last = solved[-1].right
    filled = words | {"n": str(last), "fold": FOLDS.get(last), "r": str(value)}
    texts.append(question.text.format(**filled))
    text = " ".join(filter(None, texts))
    return _Solved(text, opening, tuple(solved), working, question.answer.format(**filled))


def _draw_number(
    rng: random.Random, change: Change, question: Question, difficulty: Difficulty
) -> int:
    if change.operator in "+-":
        if difficulty.single_place and rng.random() < _TENS_SHARE:
            return 10 * rng.randint(1, difficulty.greatest_change // 10)
        return rng.randint(2, 9 if difficulty.single_place else difficulty.greatest_change)
    text = question.text if change is question.change else change.text
    return rng.randint(2, 9 if "{n}" in text else max(FOLDS))


def _draw_frame(rng: random.Random, steps: int, difficulty: Difficulty) -> _Solved | None:
    frame = rng.choice(FRAMES_BY_STEPS[steps])
    values = _draw_values(rng, frame)
    words = _draw_words(rng) | {"place": rng.choice(PLACES)}
    known = dict(values)
    written = {letter: (str(value), _ATOM) for letter, value in values.items()}
    solved: list[_Step] = []
    for at, (lead, operation) in enumerate(frame.steps, start=1):
        left, operator, right = operation.split()
        result = _calculate(known[left], operator, known[right], difficulty)
        if result is None:
            return None
        solved.append(_Step(lead.format(**words), known[left], operator, known[right], result))
        known[f"r{at}"] = result
        written[f"r{at}"] = _join(written[left], operator, written[right])
    return _Solved(
        frame.text.format(**words, **values),
        "",
        tuple(solved),
        written[f"r{len(solved)}"][0],
        frame.answer.format(**words, r=solved[-1].result),
    )


def _draw_values(rng: random.Random, frame: Frame) -> dict[str, int]:
    values: dict[str, int] = {}
    for entry in frame.ranges.split():
        letter, limits = entry.split(":")
        least, greatest = limits.split("-")
        values[letter] = rng.randint(int(least), int(greatest))
    return values


def _draw_words(rng: random.Random) -> dict[str, str]:
    name, friend, third = rng.sample(NAMES, 3)
    return {"name": name, "friend": friend, "third": third, "thing": rng.choice(THINGS)}


def _calculate(left: int, operator: str, right: int, difficulty: Difficulty) -> int | None:
    """None where the step is not one of this difficulty."""
    if difficulty.single_place and work_out(left, operator, right).count("=") > 1:
        return None
    if operator == "/":
        quotient, rest = divmod(left, right)
        return quotient if rest == 0 and 2 <= quotient <= difficulty.greatest_quotient else None
    result = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return result if 0 < result <= difficulty.greatest_result else None


def _join(left: tuple[str, int], operator: str, right: tuple[str, int]) -> tuple[str, int]:
    """Two expressions as one, each with how strongly its parts hold together."""
    strength = _PRECEDENCE[operator]
    first = left[0] if left[1] >= strength else f"({left[0]})"
    loose = right[1] < strength or (right[1] == strength and operator in "-/")
    second = f"({right[0]})" if loose else right[0]
    return f"{first}{operator}{second}", strength


def _places(number: int) -> list[int]:
    """126 as 100, 20, 6."""
    digits = str(number)
    return [int(d) * 10 ** (len(digits) - at - 1) for at, d in enumerate(digits) if d != "0"]


def _write(rng: random.Random, solved: _Solved, level: Level) -> GradedProblem:
    result = solved.steps[-1].result
    opening = [solved.opening] if solved.opening else []
    worked = [f"{s.lead}: {work_out(s.left, s.operator, s.right)}." for s in solved.steps]
    again = [f"{s.lead}: {s.left}{s.operator}{s.right}={s.result}." for s in solved.steps]
    way = " ".join([*opening, *again])
    thought = " ".join([*opening, *worked, f"So the result is {result}."])
    solved_at = len(thought)
    for chance, (begin, end) in zip(_CHECK_CHANCES, _CHECKS, strict=True):
        if rng.random() >= chance:
            break
        thought += f"\n\n{begin} {way} {end.format(r=result)}"
    return GradedProblem(
        text=solved.text,
        steps=len(solved.steps),
        thought=thought,
        conclusion=solved.conclusion,
        result=result,
        level=level,
        working=solved.working,
        solved_at=solved_at,
    )
