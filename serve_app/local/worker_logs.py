"""Follows what replicas write to their standard output: JSON lines in Ray's worker log files."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class WorkerLogs:
    """New JSON lines of all workers, in the order in which they are read. Ray renames a worker's
    file when it learns of its job, so files are known by their inodes."""

    log_dir: Path
    _offsets: dict[int, int] = field(default_factory=dict)

    def new_lines(self) -> list[str]:
        """Complete lines, written since the last call, that hold a JSON object."""
        lines: list[str] = []
        for file in sorted(self.log_dir.glob("worker-*.out")):
            # What was renamed since it was listed is read the next time.
            with suppress(FileNotFoundError):
                lines.extend(line for line in self._read(file) if line.startswith("{"))
        return lines

    def _read(self, file: Path) -> list[str]:
        with file.open("rb") as stream:
            inode = os.fstat(stream.fileno()).st_ino
            begin = stream.seek(self._offsets.get(inode, 0))
            written = stream.read()
        # A line that is still being written is read the next time.
        complete = written[: written.rfind(b"\n") + 1]
        self._offsets[inode] = begin + len(complete)
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
    written: list[tuple[float, Path]] = []
    for file in log_dir.glob("worker-*.err"):
        with suppress(FileNotFoundError):
            status = file.stat()
            written += [(status.st_mtime, file)] if status.st_size > 0 else []
    for _, file in sorted(written, reverse=True):
        with suppress(FileNotFoundError):
            return file.read_text(errors="replace").splitlines()[-lines:]
    return []
