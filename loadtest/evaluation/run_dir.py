"""The folder of one evaluation: its settings, its answers as they come, and the summary.

Each answer is a line of `answers.jsonl` at once, so that an evaluation that stops goes on later.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from loadtest.evaluation.answer import Answer
from loadtest.evaluation.faults import EvaluationFault
from loadtest.results_file import write

SETTINGS, ANSWERS = "settings.json", "answers.jsonl"
SUMMARY, SUMMARY_PAGE = "summary.json", "summary.md"

Key = tuple[str, int]


class RunDir:
    """`answers` are by (problem, run); a later line replaces an earlier one."""

    def __init__(self, path: Path, settings: Mapping[str, Any], answers: dict[Key, Answer]) -> None:
        self.path = path
        self.settings = settings
        self.answers = answers
        self._file: TextIO | None = None

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], *, resume: bool = True) -> "RunDir":
        """A new folder, or one that holds answers under the very same settings."""
        told = path / SETTINGS
        if not told.exists():
            if path.exists() and any(path.iterdir()):
                raise EvaluationFault(f"{path} is not empty and no evaluation; name another --out.")
            write(told, settings)
            return cls(path, settings, {})
        _refuse_others(path, _document(path / SETTINGS), settings)
        answers = _answers(path)
        if answers and not resume:
            raise EvaluationFault(
                f"{path} has {len(answers)} answers; go on with --resume, or name another --out."
            )
        return cls(path, settings, answers)

    @classmethod
    def read(cls, path: Path) -> "RunDir":
        """A folder as it is, to be compared."""
        if not (path / SETTINGS).is_file():
            raise EvaluationFault(f"{path} is no evaluation: it has no {SETTINGS}.")
        return cls(path, _document(path / SETTINGS), _answers(path))

    @property
    def summary(self) -> dict[str, Any] | None:
        """As it was written last; None if it never was."""
        file = self.path / SUMMARY
        return _document(file) if file.exists() else None

    @contextmanager
    def appending(self) -> Iterator["RunDir"]:
        """While it is open no other process adds to the folder."""
        with (self.path / ANSWERS).open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise EvaluationFault(f"Another evaluation is writing to {self.path}.") from None
            _end_last_line(self.path / ANSWERS)
            self._file = file
            try:
                yield self
            finally:
                self._file = None

    def add(self, answer: Answer) -> None:
        if self._file is None:
            raise RuntimeError("add() belongs inside appending()")
        self._file.write(json.dumps(answer.as_dict()) + "\n")
        self._file.flush()
        self.answers[answer.problem, answer.run] = answer

    def missing(self, problems: Sequence[str], runs: int) -> list[Key]:
        """What is still to be asked, run after run; requests that failed are asked again."""
        return [
            (problem, run)
            for run in range(runs)
            for problem in problems
            if not ((known := self.answers.get((problem, run))) and known.answered)
        ]


def _document(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise EvaluationFault(f"{file} cannot be read: {fault}.") from None


def _refuse_others(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    old, new = _flat(there), _flat(here)
    other = [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if other:
        raise EvaluationFault(
            f"{path} holds an evaluation with other settings: {'; '.join(other)}. "
            "Name another --out."
        )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling's settings beside the others, so that a message can name the one."""
    return {**settings, "sampling": None, **settings.get("sampling", {})}


def _answers(path: Path) -> dict[Key, Answer]:
    answers: dict[Key, Answer] = {}
    file = path / ANSWERS
    lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            answer = Answer.from_dict(json.loads(line))
        except (ValueError, TypeError, AttributeError) as fault:
            if number == len(lines):
                break  # the writer was killed in the middle of it
            raise EvaluationFault(f"{file}, line {number}, is no answer: {fault}.") from None
        answers[answer.problem, answer.run] = answer
    return answers


def _end_last_line(file: Path) -> None:
    """Drop a line that was begun and not ended, or the next one would be glued to it."""
    if not file.exists():
        return
    data = file.read_bytes()
    if data and not data.endswith(b"\n"):
        with file.open("r+b") as torn:
            torn.truncate(data.rfind(b"\n") + 1)
