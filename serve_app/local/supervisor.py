"""Runs one command and ends everything that came of it: `python -m serve_app.local.supervisor`.

Ray's processes change their titles (which hides their environment), leave their parents when
these are killed, and HAProxy and vLLM's engine processes outlive a hard kill of the raylet. So
this process takes in the orphans of its tree (Linux' child subreaper) and at the end, whether it
is asked to stop, the command ends, or the starter dies, leaves none of them.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

RUN_ID_VARIABLE = "TIERSERVE_RUN_ID"
POLL_S = 0.2
# Ray ends its workers within some seconds of SIGTERM; what is left then is ended by pid.
COMMAND_GRACE_S = 15.0
REMAINDER_GRACE_S = 3.0
_PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    """Run `command` until it ends, SIGTERM or SIGINT comes, or the starter closes our stdin."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    # Blocked, and read by sigtimedwait, so that no signal interrupts the clean-up.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = subprocess.Popen(  # noqa: S603 - the command that whoever started this one gave
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, signals),
    )
    status: int | None = None
    while status is None and not _starter_has_ended() and not _asked_to_stop(signals):
        status = _reap(child.pid)
    if status is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + COMMAND_GRACE_S
        while status is None and time.monotonic() < deadline_s:
            status = _reap(child.pid)
            # Asked a second time: no more grace.
            if _asked_to_stop(signals, POLL_S):
                break
    # Orphans have become children of this process.
    end_processes(lambda: psutil.Process().children(recursive=True))
    return 0 if status is None else os.waitstatus_to_exitcode(status)


def processes_of_run(run_id: str, run_dir: Path) -> list[psutil.Process]:
    """Processes of this user that carry the run's marker, or, where a changed title hides the
    environment, write to a file of the run."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid():
                continue
            marked = process.environ().get(RUN_ID_VARIABLE) == run_id
            if marked or any(run_dir in Path(f.path).parents for f in process.open_files()):
                found.append(process)
    return found


def end_processes(
    find: Callable[[], Iterable[psutil.Process]], grace_s: float = REMAINDER_GRACE_S
) -> None:
    """SIGTERM, a grace, SIGKILL; again until `find` finds none, since a process may just fork."""
    for _ in range(5):
        processes = list(find())
        if not processes:
            return
        _signal(processes, signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=grace_s)
        _signal(alive, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=grace_s)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _starter_has_ended() -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
    return bool(readable) and os.read(sys.stdin.fileno(), 1) == b""


def _asked_to_stop(signals: set[signal.Signals], wait_s: float = 0.0) -> bool:
    return signal.sigtimedwait(signals, wait_s) is not None


def _reap(command_pid: int) -> int | None:
    """Wait status of the command if it ended; buries orphans that ended as well."""
    status: int | None = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            if ended[0] == command_pid:
                status = ended[1]
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
