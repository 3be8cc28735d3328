"""The folder of a soak: lines that are appended while it runs, so that a crash loses none."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from loadtest.load.faults import LoadFault
from loadtest.results_file import write

META, REQUESTS, SAMPLES, EVENTS = "meta.json", "requests.jsonl", "samples.jsonl", "events.jsonl"


@dataclass(slots=True)
class Folder:
    """Open for writing. Each line is on its way to the disk when the call returns."""

    path: Path
    _files: dict[str, TextIO] = field(default_factory=dict)

    @classmethod
    def make(cls, path: Path, meta: Mapping[str, Any]) -> "Folder":
        if (path / META).exists():
            raise LoadFault(f"{path} holds a soak already: name another --out.")
        path.mkdir(parents=True, exist_ok=True)
        write(path / META, meta)
        return cls(path)

    def add(self, name: str, line: Mapping[str, Any]) -> None:
        if name not in self._files:
            # Line-buffered: what was written is read by `--report` while the soak goes on.
            self._files[name] = (self.path / name).open("a", encoding="utf-8", buffering=1)
        self._files[name].write(json.dumps(line, separators=(",", ":")) + "\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def read_meta(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / META).read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise LoadFault(f"{path} is no soak's folder: {fault}") from None


def lines(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """What was written so far; a last line that a crash has cut is left out."""
    if not (path / name).exists():
        return
    with (path / name).open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
