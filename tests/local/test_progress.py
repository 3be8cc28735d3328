"""What a start shows, on a terminal and in a pipe."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from serve_app.local.progress import StartProgress
from serve_app.local.serve_api import AppStatus
from serve_app.local.worker_logs import WorkerLogs


def make_progress(*, terminal: bool = False) -> tuple[StartProgress, io.StringIO]:
    out = io.StringIO()
    return StartProgress(Console(file=out, force_terminal=terminal, width=120)), out


def test_a_pipe_gets_one_line_for_each_wait() -> None:
    progress, out = make_progress()
    for _ in range(3):
        progress.wait_for("Ray to start")
    progress.say("Ray is up")
    assert [line.split("s  ")[1] for line in out.getvalue().splitlines()] == [
        "waiting for Ray to start",
        "Ray is up",
    ]


def test_the_waiting_lines_time_runs_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, out = make_progress(terminal=True)
    progress.wait_for("Ray to start")
    now_s = time.monotonic()
    monkeypatch.setattr("serve_app.local.progress.time.monotonic", lambda: now_s + 7)
    time.sleep(0.3)
    progress.stop()
    assert "7 s  waiting for Ray to start" in out.getvalue()


def test_phases_and_errors_of_the_replicas_are_printed(tmp_path: Path) -> None:
    progress, out = make_progress()
    fields = [
        {"tier": "chat", "phase": "import", "message": "begins"},
        {"tier": "chat", "phase": "import", "duration_s": 11.42},
        {"tier": "chat", "phase": "load", "message": "begins"},
        {"tier": "reasoning", "level": "ERROR", "message": "no memory left"},
    ]
    (tmp_path / "worker-1.out").write_text("".join(json.dumps(line) + "\n" for line in fields))
    progress.read_logs(WorkerLogs(tmp_path))
    progress.read_status(
        {
            "web": AppStatus("web", "RUNNING", "", {"RUNNING": 1}),
            "chat": AppStatus("chat", "DEPLOYING", "", {"STARTING": 1}),
            "reasoning": AppStatus("reasoning", "DEPLOYING", "", {"STARTING": 1}),
        }
    )
    text = out.getvalue()
    assert "chat: import done in 11.4 s" in text
    assert "reasoning: no memory left" in text
    assert "web: running" in text
    assert "waiting for chat (load), reasoning (1 starting)" in text


def test_a_replica_that_cannot_be_placed_is_explained() -> None:
    progress, out = make_progress()
    message = "Deployment has 1 replica that has taken more than 30s to be scheduled"
    progress.read_status({"chat": AppStatus("chat", "DEPLOYING", message, {"STARTING": 1})})
    assert "not placed: this machine has no CPUs or GPU free" in out.getvalue()


def test_a_replica_that_only_takes_long_is_placed() -> None:
    progress, out = make_progress()
    message = "Deployment has 1 replicas that have taken more than 30s to initialize."
    progress.read_status({"chat": AppStatus("chat", "DEPLOYING", message, {"STARTING": 1})})
    assert "waiting for chat (1 starting)" in out.getvalue()
