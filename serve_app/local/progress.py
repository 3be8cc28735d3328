"""What a start shows: one line for each step done, and what is being waited for now."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.status import Status
from rich.text import Text

from serve_app.local.serve_api import AppStatus
from serve_app.local.worker_logs import WorkerLogs, parse_line


class StartProgress:
    """Lines with the elapsed time; on a terminal the current wait in a line of its own."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_s = time.monotonic()
        self._phase_of: dict[str, str] = {}
        self._status_of: dict[str, str] = {}
        self._said = ""
        self._live: Status | None = None

    @property
    def elapsed_s(self) -> float:
        """Since this object was made."""
        return time.monotonic() - self._started_s

    def say(self, text: str) -> None:
        """One step that is done."""
        line = f"{self.elapsed_s:5.0f} s  {text}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def wait_for(self, text: str) -> None:
        """What is waited for; where there is no terminal, one line each time that it changes."""
        if not self._console.is_terminal:
            if text != self._said:
                self.say(f"waiting for {text}")
                self._said = text
            return
        waiting = _Waiting(self, text)
        if self._live is None:
            self._live = self._console.status(waiting)
            self._live.start()
        self._live.update(waiting)

    def stop(self) -> None:
        """Take the waiting line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def read_logs(self, logs: WorkerLogs) -> None:
        """Print the start-up phases that replicas log, and their errors."""
        for fields in map(parse_line, logs.new_lines()):
            tier, phase = fields.get("tier", "replica"), fields.get("phase")
            if phase and "duration_s" in fields:
                self._phase_of.pop(tier, None)
                self.say(f"{tier}: {phase} done in {fields['duration_s']:.1f} s")
            elif phase:
                self._phase_of[tier] = phase
            elif fields.get("level") in ("ERROR", "CRITICAL"):
                self.say(f"{tier}: {fields.get('message', '')}")

    def read_status(self, apps: Mapping[str, AppStatus]) -> None:
        """Print which applications came up, and wait for the others."""
        for name, app in apps.items():
            if app.status == "RUNNING" and self._status_of.get(name) != "RUNNING":
                self.say(f"{name}: running")
            self._status_of[name] = app.status
        waiting = [self._waits(app) for app in apps.values() if app.status != "RUNNING"]
        self.wait_for(", ".join(waiting) or ("the first answer" if apps else "Serve"))

    def _waits(self, app: AppStatus) -> str:
        phase = self._phase_of.get(app.name)
        if phase:
            return f"{app.name} ({phase})"
        # Serve's message is the same for a replica that is placed and takes long "to initialize".
        if "to be scheduled" in app.message:
            return f"{app.name} (not placed: this machine has no CPUs or GPU free for it)"
        states = ", ".join(f"{count} {state.lower()}" for state, count in app.replicas.items())
        return f"{app.name} ({states or app.status.lower()})"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The waiting line; Rich renders it many times a second, so that its time runs."""

    progress: StartProgress
    text: str

    def __rich__(self) -> Text:
        return Text(f"{self.progress.elapsed_s:5.0f} s  waiting for {self.text}")
