"""Results are compared as mathematics, and no answer is too much for the evaluation."""

import pytest

from loadtest.evaluation.grade import Grader, grade, group


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("70000", r"He made a profit of \boxed{\$70,000}."),
        ("1,234", r"\boxed{1234}"),
        ("18", "She makes 9 * 2 = 18 dollars.\n#### 18"),
        ("0.5", r"\boxed{\frac{1}{2}}"),
        (r"\frac{1}{2}", "The final answer is 0.5."),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3,\pi/2)}"),
        ("2,4", r"\boxed{4, 2}"),
        (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}"),
        (
            "5",
            r"\boxed{7} counts what she lost. The final answer is \boxed{5 \text{ apples}}.",
        ),
    ],
)
def test_equal_results_are_correct_however_they_are_written(reference: str, answer: str) -> None:
    judged = grade(reference, answer)

    assert judged.correct
    assert judged.extracted


@pytest.mark.parametrize(
    ("reference", "answer", "extracted"),
    [
        ("18", r"\boxed{17}", "17"),
        (r"(3,\pi)", r"\boxed{(\pi,3)}", r"(\pi,3)"),
        (r"\text{even}", r"\boxed{\text{odd}}", r"\text{odd}"),
        # Boxes beside each other are one answer of several results.
        ("5", r"\boxed{7}, or \boxed{5}", "7,5"),
        ("5", "I do not know.", None),
        ("5", "", None),
    ],
)
def test_other_results_are_not_correct(reference: str, answer: str, extracted: str | None) -> None:
    judged = grade(reference, answer)

    assert not judged.correct
    assert judged.extracted == extracted


def test_votes_for_equal_results_are_votes_for_one() -> None:
    answers = [r"\boxed{1/2}", r"\boxed{0.5}", "none", r"\boxed{2}", r"\boxed{\frac12}"]

    assert group(answers) == [0, 0, None, 3, 0]


async def test_the_grading_process_judges_and_groups() -> None:
    async with Grader() as grader:
        judged = await grader.grade("4", r"\boxed{4}")

        assert judged.correct
        assert judged.extracted == "4"
        assert await grader.group([r"\boxed{4}", "x is 5", r"\boxed{4.0}"]) == [0, 1, 0]


async def test_an_answer_that_takes_too_long_is_noted_and_the_process_replaced() -> None:
    async with Grader(answer_limit_s=0.01) as grader:
        for _ in range(2):
            judged = await grader.grade("4", r"\boxed{4}")

            assert not judged.correct
            assert judged.note is not None
        assert await grader.group(["1", "2"]) == [0, 1]
