"""The replicas' logs: follows the JSON lines in Ray's worker log files, and chooses what an
operator sees of them on the terminal."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# One line for each request, of `serve_app.api.request_record`.
REQUEST_LOGGER = "serve_app.api.request_record"
LINE_EVERY_S = 1.0
SHOWN_LEVELS = ("WARNING", "ERROR", "CRITICAL")
_LONGEST = 400


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


@dataclass(slots=True)
class LogFeed:
    """Chooses among log lines. With `everything` each is shown as it is. Otherwise a person gets
    warnings and errors as text, one a second at most: a burst is its worst line, and the number of
    those that only the log files have.
    """

    clock_s: Callable[[], float]
    everything: bool = False
    _waiting: list[str] = field(default_factory=list[str])
    _next_at_s: float = 0.0

    def take(self, lines: list[str]) -> list[str]:
        """What to show now, for the lines that came since the last call."""
        if self.everything:
            return lines
        self._waiting += [text for line in lines if (text := as_text(parse_line(line)))]
        now_s = self.clock_s()
        if not self._waiting or now_s < self._next_at_s:
            return []
        self._next_at_s = now_s + LINE_EVERY_S
        shown = max(self._waiting, key=lambda text: _severity(text.split(maxsplit=1)[0]))
        more = len(self._waiting) - 1
        self._waiting.clear()
        return [f"{shown} (and {more} more in the logs)" if more else shown]


def as_text(fields: Mapping[str, Any]) -> str:
    """A log line for a person; empty for one that is not worth a look."""
    level, message = str(fields.get("level", "")), str(fields.get("message", ""))
    if level not in SHOWN_LEVELS or fields.get("logger") == REQUEST_LOGGER or not message:
        return ""
    raised = str(fields.get("exc_info") or "").strip().splitlines()[-1:]
    text = " ".join(" ".join([message, *raised]).split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    who = str(fields.get("tier") or fields.get("logger") or "service")
    return f"{level} {who}: {text}"


def _severity(level: str) -> int:
    return SHOWN_LEVELS.index(level)
