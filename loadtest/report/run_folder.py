"""The folder of a run: documents, and files of JSON lines that are appended while it goes on, so
that what was written before a crash can be read."""

import datetime
import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TextIO

from loadtest.errors import UserError
from loadtest.report.results_file import RESULTS


def default_folder(kind: str, *words: str, to_the_day: bool = False) -> Path:
    """In the results, named from what it is of and the time; or the day, on which the same
    command goes on in the same folder."""
    now = datetime.datetime.now(datetime.UTC)
    at = now.date().isoformat() if to_the_day else now.strftime("%Y-%m-%d-%H%M%S")
    return RESULTS / kind / "-".join(re.sub(r"[^\w.]+", "_", word) for word in (*words, at))


@dataclass(slots=True)
class RunFolder:
    """Open for writing inside a `with`; nobody else adds to a file meanwhile."""

    path: Path
    _files: dict[str, TextIO] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def open(self, name: str) -> None:
        """Raises UserError where another process has it open."""
        # Line-buffered: each line is on its way to the disk when `add` returns.
        file = (self.path / name).open("a", encoding="utf-8", buffering=1)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise UserError(f"Another process is writing to {self.path / name}.") from None
        _end_last_line(self.path / name)
        self._files[name] = file

    def add(self, name: str, line: Mapping[str, Any]) -> None:
        if name not in self._files:
            self.open(name)
        self._files[name].write(json.dumps(line, separators=(",", ":")) + "\n")


def refuse_used(path: Path, name: str) -> None:
    """Raises UserError where a run has written there already."""
    if (path / name).exists():
        raise UserError(f"{path} holds a run already: name another --out.")


def read_document(path: Path, name: str, what: str) -> dict[str, Any]:
    """Raises UserError where the folder is no such thing as `what`."""
    try:
        return json.loads((path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no {what}: {error}.") from None


def read_lines(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """What was written so far; a last line that a crash has cut is left out. Raises UserError for
    any other that is no JSON."""
    if not (path / name).exists():
        return
    with (path / name).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path / name}, line {number}: {error}.") from None


def _end_last_line(file: Path) -> None:
    """Drop a line that was begun and not ended, or the next one would be glued to it."""
    data = file.read_bytes()
    if data and not data.endswith(b"\n"):
        with file.open("r+b") as torn:
            torn.truncate(data.rfind(b"\n") + 1)
