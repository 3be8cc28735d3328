"""Follows what replicas write to their standard output: JSON lines in Ray's worker log files."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class WorkerLogs:
    """New JSON lines of all workers, in the order in which they are read."""

    log_dir: Path
    _offsets: dict[Path, int] = field(default_factory=dict)

    def new_lines(self) -> list[str]:
        """Complete lines, written since the last call, that hold a JSON object."""
        lines: list[str] = []
        for file in sorted(self.log_dir.glob("worker-*.out")):
            lines.extend(line for line in self._read(file) if line.startswith("{"))
        return lines

    def _read(self, file: Path) -> list[str]:
        with file.open("rb") as stream:
            stream.seek(self._offsets.get(file, 0))
            written = stream.read()
        # A line that is still being written is read the next time.
        complete = written[: written.rfind(b"\n") + 1]
        self._offsets[file] = self._offsets.get(file, 0) + len(complete)
        return complete.decode(errors="replace").splitlines()


def parse_line(line: str) -> dict[str, Any]:
    """The fields of a log line; none if it is no JSON object after all."""
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def error_tail(log_dir: Path, lines: int = 20) -> list[str]:
    """The last lines of the worker that wrote to its standard error last."""
    files = [file for file in log_dir.glob("worker-*.err") if file.stat().st_size > 0]
    if not files:
        return []
    newest = max(files, key=lambda file: file.stat().st_mtime)
    return newest.read_text(errors="replace").splitlines()[-lines:]
