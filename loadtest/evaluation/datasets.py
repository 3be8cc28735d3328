"""The problems that are asked: two published sets, the micro models' held-out ones, or a file."""

import gzip
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.errors import UserError
from loadtest.report.results_file import REPOSITORY

FOLDER = REPOSITORY / "loadtest" / "datasets"
_GRADED = REPOSITORY / "serve_app" / "engine" / "micro_r2" / "held_out.jsonl"
# Parts of a set, by what its lines have as `level`.
LEVELS = {f"micro-r2-{level}": level for level in ("easy", "medium", "hard")}
KNOWN = {
    "gsm8k": FOLDER / "gsm8k_test.jsonl.gz",
    "math500": FOLDER / "math500_test.jsonl.gz",
    "micro": REPOSITORY / "serve_app" / "engine" / "micro_r1" / "held_out.jsonl",
    "micro-r2": _GRADED,
    **dict.fromkeys(LEVELS, _GRADED),
}
# `--limit` takes the same problems for every model and every seed.
SHUFFLE_SEED = 0
GSM8K_MARK = "####"


@dataclass(frozen=True, slots=True)
class Problem:
    """`answer` is the reference, as LaTeX or as a plain number, without the way to it."""

    id: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Dataset:
    name: str
    problems: tuple[Problem, ...]

    @property
    def fingerprint(self) -> str:
        """Changes with any problem, answer, or their order."""
        text = json.dumps([[p.id, p.text, p.answer] for p in self.problems])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(name: str, limit: int | None = None) -> Dataset:
    """A known set by its name, else a JSONL file (gzipped or not); `limit`: so many of a fixed
    shuffle."""
    path = KNOWN.get(name, Path(name))
    if not path.is_file():
        known = ", ".join(KNOWN)
        if name in KNOWN:
            raise UserError(f"{name} is not here: it is made as {path.name}, which is missing.")
        raise UserError(f"There is no file or dataset {name!r}; known datasets: {known}.")
    problems = tuple(_problems(path, LEVELS.get(name)))
    if not problems:
        raise UserError(f"{path.name} holds no problems.")
    if limit is not None:
        shuffled = list(problems)
        random.Random(SHUFFLE_SEED).shuffle(shuffled)
        problems = tuple(shuffled[:limit])
    return Dataset(name if name in KNOWN else path.name.split(".")[0], problems)


def _problems(path: Path, level: str | None) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            problem = _problem(row, number)
            if problem.id in seen:
                raise ValueError(f"the id {problem.id!r} was used before")
        except ValueError as error:
            raise UserError(f"{path.name}, line {number}: {error}.") from None
        seen.add(problem.id)
        if level is None or row.get("level") == level:
            yield problem


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        # Not `splitlines`: JSON strings may hold U+2028, which is no end of a line here.
        return data.decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read: {error}.") from None


def _problem(row: Any, number: int) -> Problem:
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is needed, not {type(row).__name__}")
    text = row.get("problem", row.get("question"))
    if not isinstance(text, str) or not text.strip():
        raise ValueError("`problem` (or `question`) must be a text")
    answer = row.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise ValueError("`answer` must be a text or a number")
    final = str(answer).rpartition(GSM8K_MARK)[2].strip()
    if not final:
        raise ValueError("`answer` is empty")
    return Problem(str(row.get("id", row.get("unique_id", number))), text, final)
