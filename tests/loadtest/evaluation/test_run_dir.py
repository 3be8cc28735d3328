"""An evaluation goes on where it stopped, and only with the settings that it began with."""

from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import UserError
from loadtest.evaluation.ask import Answer
from loadtest.evaluation.datasets import Dataset, Problem
from loadtest.evaluation.run import ANSWERS, Answers, Evaluation, ServerUsage

SETTINGS = {"model": "m", "runs": 2}


def filled(path: Path) -> Answers:
    folder = Answers.open(path, SETTINGS)
    with folder.appending():
        folder.add(Answer("p1", 0, text="4", correct=True, extracted="4"))
        folder.add(Answer("p2", 0, error="500"))
    return folder


def test_what_is_missing_is_asked_run_after_run_and_failures_again(tmp_path: Path) -> None:
    filled(tmp_path / "out")

    again = Answers.open(tmp_path / "out", SETTINGS)

    assert again.by_key["p1", 0].correct
    problems = (Problem("p1", "2 + 2", "4"), Problem("p2", "2 + 3", "5"))
    asker: Any = None
    evaluation = Evaluation(again, Dataset("sums", problems), asker, ServerUsage())
    assert evaluation.missing() == [("p2", 0), ("p1", 1), ("p2", 1)]


def test_the_last_line_about_an_answer_counts(tmp_path: Path) -> None:
    folder = filled(tmp_path / "out")
    with folder.appending():
        folder.add(Answer("p2", 0, text="5"))

    assert Answers.read(tmp_path / "out").by_key["p2", 0].text == "5"


def test_a_line_that_was_torn_by_a_kill_is_asked_again(tmp_path: Path) -> None:
    filled(tmp_path / "out")
    file = tmp_path / "out" / ANSWERS
    file.write_text(file.read_text() + '{"problem": "p1", "ru')

    folder = Answers.open(tmp_path / "out", SETTINGS)
    with folder.appending():
        folder.add(Answer("p1", 1))

    assert set(Answers.read(tmp_path / "out").by_key) == {("p1", 0), ("p2", 0), ("p1", 1)}


def test_a_broken_line_elsewhere_is_named(tmp_path: Path) -> None:
    filled(tmp_path / "out")
    file = tmp_path / "out" / ANSWERS
    file.write_text("nonsense\n" + file.read_text())

    with pytest.raises(UserError, match="line 1:"):
        Answers.read(tmp_path / "out")


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    filled(tmp_path / "out")

    with pytest.raises(UserError, match="model is 'm' there and 'n' here"):
        Answers.open(tmp_path / "out", {**SETTINGS, "model": "n"})
    with pytest.raises(UserError, match="has 2 answers; go on with --resume"):
        Answers.open(tmp_path / "out", SETTINGS, resume=False)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(UserError, match="not empty and no evaluation"):
        Answers.open(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="is no evaluation"):
        Answers.read(tmp_path)


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    first = Answers.open(tmp_path / "out", SETTINGS)
    with (
        first.appending(),
        pytest.raises(UserError, match="Another process is writing"),
        Answers.open(tmp_path / "out", SETTINGS).appending(),
    ):
        pass
