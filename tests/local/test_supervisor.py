"""Whatever becomes of a supervised command or its starter, no process is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

# A stand-in for Ray: starts a daemon that ignores SIGTERM in a session of its own, whose parent
# ends at once and which hides its environment, then waits.
STUBBORN = """
import os, signal, subprocess, sys, time
daemon = ("import signal, time, os; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
          "out = os.environ['OUT']; open(out + '.new', 'w').write(str(os.getpid())); "
          "os.rename(out + '.new', out); time.sleep(600)")
subprocess.Popen([sys.executable, "-c", "import subprocess, sys, os; subprocess.Popen("
    "[sys.executable, '-c', sys.argv[1]], start_new_session=True, "
    "env={'OUT': os.environ['OUT']})", daemon])
while not os.path.exists(os.environ["OUT"]):
    time.sleep(0.05)
"""


@pytest.fixture
def supervise(tmp_path: Path) -> Callable[[str], tuple[subprocess.Popen[bytes], psutil.Process]]:
    def start(end: str) -> tuple[subprocess.Popen[bytes], psutil.Process]:
        out = tmp_path / "pid"
        supervisor = subprocess.Popen(
            [
                *(sys.executable, "-m", "serve_app.local.supervisor"),
                *(sys.executable, "-c", STUBBORN + end),
            ],
            stdin=subprocess.PIPE,
            env=os.environ | {"OUT": str(out)},
        )
        deadline_s = time.monotonic() + 20
        while not out.exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        return supervisor, psutil.Process(int(out.read_text()))

    return start


@pytest.mark.parametrize("how", ["asked to stop", "starter dies", "command is killed"])
def test_nothing_outlives_the_supervisor(
    how: str,
    supervise: Callable[[str], tuple[subprocess.Popen[bytes], psutil.Process]],
) -> None:
    end = (
        "os.kill(os.getpid(), signal.SIGKILL)" if how == "command is killed" else "time.sleep(600)"
    )
    supervisor, daemon = supervise(end)
    assert supervisor.stdin is not None
    if how == "asked to stop":
        supervisor.terminate()
    elif how == "starter dies":
        supervisor.stdin.close()
    status = supervisor.wait(30)
    assert not daemon.is_running()
    assert status == (-9 & 0xFF if how == "command is killed" else -signal.SIGTERM & 0xFF)
    supervisor.stdin.close()
