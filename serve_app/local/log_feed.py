"""What a running service shows on its terminal: all of its log, or what an operator must see."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.local.worker_logs import parse_line

# One line for each request, of `serve_app.api.request_record`.
REQUEST_LOGGER = "serve_app.api.request_record"
LINE_EVERY_S = 1.0
SHOWN_LEVELS = ("WARNING", "ERROR", "CRITICAL")
_LONGEST = 400


@dataclass(slots=True)
class LogFeed:
    """Chooses among log lines. With `everything` each is shown as it is. Otherwise a person gets
    warnings and errors in words, one a second at most: a burst is its worst line, and the number of
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
        self._waiting += [text for line in lines if (text := in_words(parse_line(line)))]
        now_s = self.clock_s()
        if not self._waiting or now_s < self._next_at_s:
            return []
        self._next_at_s = now_s + LINE_EVERY_S
        shown = max(self._waiting, key=lambda text: _severity(text.split(maxsplit=1)[0]))
        more = len(self._waiting) - 1
        self._waiting.clear()
        return [f"{shown} (and {more} more in the logs)" if more else shown]


def in_words(fields: Mapping[str, Any]) -> str:
    """A log line for a person; empty for one that is not worth a look."""
    level, message = str(fields.get("level", "")), str(fields.get("message", ""))
    if level not in SHOWN_LEVELS or fields.get("logger") == REQUEST_LOGGER or not message:
        return ""
    raised = str(fields.get("exc_info") or "").strip().splitlines()[-1:]
    said = " ".join(" ".join([message, *raised]).split())
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
    who = str(fields.get("tier") or fields.get("logger") or "service")
    return f"{level} {who}: {said}"


def _severity(level: str) -> int:
    return SHOWN_LEVELS.index(level)
