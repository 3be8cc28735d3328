"""The pre-started Python: `python -m serve_app.prestarted.python FD MODULE:FUNCTION`.

It is started when it is known that it will be wanted, imports while its parent does other things,
and waits. It is a child like any other: with the environment, cores and scheduling class of the
moment in which it was started, and gone when its parent is.
"""

import atexit
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.spawn import get_command_line, spawn_main
from multiprocessing.util import spawnv_passfds
from pathlib import Path
from typing import NoReturn

import setproctitle

from serve_app.prestarted.imports import no_garbage_collection
from serve_app.prestarted.wire import Handover, place_fds, receive, send


@dataclass(frozen=True, slots=True)
class PrestartedPython:
    """One that waits, or imports still."""

    pid: int
    channel: socket.socket

    @classmethod
    def start(cls, prepare: str) -> "PrestartedPython":
        """`prepare` is a function without arguments that imports what will be needed, named as
        `module:function`. Raises OSError where no process can be started."""
        here, there = socket.socketpair()
        with there:
            command = [sys.executable, "-m", __name__, str(there.fileno()), prepare]
            # Not by `subprocess`, which would wait for it beside `multiprocessing`.
            pid = spawnv_passfds(os.fsencode(sys.executable), command, [there.fileno()])
        return cls(pid, here)

    def become_process(self, fds: Sequence[int], read_later: Sequence[str] = ()) -> None:
        """It is now what comes through the pipe `fds[1]`; `fds[0]` is the resource tracker's, as
        `multiprocessing` has it. Where the environment has changed since it began, but for what is
        `read_later`, it begins once more. Raises OSError where it has ended."""
        now = Handover(dict(os.environ), str(Path.cwd()), list(fds), list(read_later))
        with self.channel:
            send(self.channel, now)

    @property
    def has_ended(self) -> bool:
        """By itself, before it was wanted: what it was to import cannot be."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def end(self) -> None:
        """It was not wanted."""
        self.channel.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return


def main(fd: int, prepare: str) -> None:
    """Import, wait, run; or end where the other end is closed first."""
    # A title is written over what the process began with. Where that lies is found at the first
    # call, and not once the environment has changed.
    setproctitle.getproctitle()
    began = dict(os.environ)
    module, _, function = prepare.partition(":")
    with no_garbage_collection():
        getattr(importlib.import_module(module), function)()
    with socket.socket(fileno=fd) as channel:
        got = receive(channel)
    if got is None:
        return
    handover, received = got
    place_fds(received, handover.fds)
    tracker_fd, pipe_handle, *_ = handover.fds
    if changed := handover.changed(began, os.environ):
        sys.stderr.write(f"the pre-started process begins again, for {', '.join(changed)}\n")
        command = get_command_line(tracker_fd=tracker_fd, pipe_handle=pipe_handle)
        os.chdir(handover.folder)
        os.execve(command[0], command, handover.environment)  # noqa: S606 - this interpreter
    os.environ.clear()
    os.environ.update(handover.environment)
    os.chdir(handover.folder)
    # By which `multiprocessing` knows its own processes.
    sys.argv = ["-c", "--multiprocessing-fork"]
    try:
        spawn_main(tracker_fd=tracker_fd, pipe_handle=pipe_handle)
    except SystemExit as ended:
        _end(ended.code)


def _end(code: object) -> NoReturn:
    """End as `multiprocessing`'s forked processes do, without taking apart what was imported:
    behind vLLM's import that is 2 CPU seconds, for which whoever stops the process waits. It has
    flushed its streams, and run its finalizers."""
    run_exit_functions: Callable[[], None] = vars(atexit)["_run_exitfuncs"]
    run_exit_functions()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
