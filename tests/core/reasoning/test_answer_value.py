r"""Answers are compared as values: the content of the last \boxed{}, in one form."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.reasoning.answer_value import MOST_CHARS, answer_value, final_answer

_PIECES = [*"0123456789.,+-/={}$%^~ abxyzAB", "\\", "\\frac", "\\text{", "\\boxed{"]
LATEX = st.lists(st.sampled_from(_PIECES), max_size=60).map("".join)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"The answer is \boxed{20}.", "20"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{7}", "7"),
        (r"\boxed{1}, so \boxed{2", "1"),
        (r"\boxed{a\}", None),
        (r"\boxed{", None),
        ("The answer is 20.", None),
        ("", None),
    ],
)
def test_the_final_answer_is_in_the_last_box_that_is_closed(text: str, found: str | None) -> None:
    assert final_answer(text) == found


@pytest.mark.parametrize(
    "same",
    [
        ["1234", "1,234", "1{,}234", " 1234 ", r"1\,234", "1234.", "1234.00", "+1234", "$1234$"],
        ["0.5", ".5", r"\frac{1}{2}", r"\dfrac12", r"\tfrac{1}{2}", "1/2", r"\frac{2}{4}", "0.50"],
        ["-0.75", r"-\frac{3}{4}", r"\frac{-3}{4}", "-3/4"],
        ["20", r"\$20", "20.", "20.0"],
        [r"20\text{ apples}", "20 apples", "20.0 apples", r"20 \mbox{ apples}."],
        [r"20\ \mathrm{cm}^2", "20 cm^2", r"20\text{ cm}^{2}", "20cm^2"],
        [r"\frac{1}{2}\text{ cup}", r"\frac12 cup", "0.5 cup"],
        [r"1{,}000\text{ km}", r"1\,000 km", "1000 km", r"1,\!000 km"],
        [r"1\text{ hour }20\text{ minutes}", "1 hour 20 minutes"],
        ["50", r"50\%", "50%", r"50^\circ", "50 degrees", r"50^{\circ}", "50 percent"],
        ["5", "x = 5", "x=5", r"n = 5.0"],
        [r"\frac{3}{2}", r"1\frac{1}{2}", "1.5"],
        [r"\text{Yes}", "yes", r"\textbf{ yes }"],
        [r"\left(1, 2\right)", "(1,2)", r"( 1 , 2 )"],
        [r"\sqrt3", r"\sqrt{3}", r"\sqrt 3"],
        [r"\text{(B)}", "(B)"],
        ["x^2+1", "x^2 + 1", r"x^2\, + 1"],
    ],
    ids=lambda same: same[0],
)
def test_one_answer_written_in_several_ways_has_one_value(same: list[str]) -> None:
    values = {written: answer_value(written) for written in same}
    assert len(set(values.values())) == 1, values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("20", "21"),
        ("2x", "2y"),
        ("1/2", "2"),
        ("1,2", "12"),
        ("(1,2)", "(2,1)"),
        ("-5", "5"),
        ("0.3", "1/3"),
        ("5x", "5"),
        ("x^2", "x^3"),
        (r"\sqrt{2}", "2"),
        ("1/0", "1"),
        ("10%", "0.1"),
        ("A", "B"),
        (r"1\text{ hour }20\text{ minutes}", r"1\text{ hour }45\text{ minutes}"),
        (r"1\text{ hour }20\text{ minutes}", "1"),
        (r"3 \text{ or } 5", "3"),
        (r"3\text{ or }5", "35"),
        ("3 AM", "3 PM"),
        (r"3\text{ a.m.}", r"3\text{ p.m.}"),
        ("5 million", "5 thousand"),
        ("5 million", "5"),
        ("2 pi", "2"),
        ("20 apples", "20 pears"),
        ("5 mW", "5 MW"),
        ("4 m^2", "4 m^3"),
        ("4 m^2", "4 m"),
        ("3 1/2", "31/2"),
        ("3 5", "35"),
        ("1/2x", "0.5x"),
        (r"2\text{}3", "23"),
        ("(1,234)", "(1234)"),
        (r"\{1,234\}", r"\{1234\}"),
        # Whether `apples` can be left out is not known: a missed equality does no harm.
        ("20", "20 apples"),
    ],
)
def test_other_answers_have_others(one: str, other: str) -> None:
    assert answer_value(one) != answer_value(other)


@given(LATEX | st.text(max_size=300))
def test_any_text_has_a_value(text: str) -> None:
    value = answer_value(text)
    assert answer_value(f"  {text} ") == value
    found = final_answer(text)
    assert found is None or found in text


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_a_rational_number_has_one_value_in_all_its_forms(over: int, under: int) -> None:
    number = Fraction(over, under)
    forms = [f"{over}/{under}", rf"\frac{{{over}}}{{{under}}}", str(number)]
    assert {answer_value(form) for form in forms} == {str(number)}


@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_thousands_commas_and_trailing_zeros_change_no_number(number: int, zeros: int) -> None:
    decimals = f".{'0' * zeros}" if zeros else ""
    assert answer_value(f"{number:,}{decimals}") == str(number)
    assert answer_value(f"{number:,}{decimals} apples") == f"{number} apples"


@given(st.integers(0, 10**6).map(str) | st.sampled_from([r"\frac{3}{4}", "x+1", "yes"]))
def test_an_answer_is_found_where_it_was_put(value: str) -> None:
    text = f"Some words. The answer is \\boxed{{{value}}}, I think."
    assert final_answer(text) == value


def test_boxes_that_are_never_closed_take_no_time() -> None:
    """As a model writes them that repeats itself; the search would be quadratic."""
    assert final_answer("\\boxed{" * 100_000) is None
    assert final_answer("\\boxed{5}" + "\\boxed{" * 3) == "5"


def test_what_is_long_is_compared_as_it_stands() -> None:
    long = "1,000" * MOST_CHARS
    assert answer_value(long) == long
    digits = "1" * 60
    assert answer_value(digits) == digits
