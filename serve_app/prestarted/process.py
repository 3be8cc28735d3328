"""`multiprocessing`'s spawned process, whose Python has been started before.

All else is `spawn`'s: what the process is to run comes pickled, through a pipe, and the parent
waits for it as for any child of its own.
"""

import io
import os
from multiprocessing import reduction, resource_tracker, spawn
from multiprocessing.context import SpawnProcess, set_spawning_popen
from multiprocessing.popen_spawn_posix import Popen as SpawnPopen
from multiprocessing.util import Finalize
from typing import Any, cast

from serve_app.prestarted.python import PrestartedPython


class PrestartedProcess(SpawnProcess):
    """A process that `python` becomes when it is started; `read_later` is what of the environment
    may have changed since."""

    python: PrestartedPython | None = None
    read_later: tuple[str, ...] = ()

    def __init__(
        self, python: PrestartedPython, read_later: tuple[str, ...] = (), **options: Any
    ) -> None:
        super().__init__(**options)
        self.python = python
        self.read_later = read_later

    def __getstate__(self) -> dict[str, Any]:
        """What goes to the new process."""
        return {name: value for name, value in vars(self).items() if name != "python"}

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return PrestartedPopen(process_obj)


class PrestartedPopen(SpawnPopen):
    """What `multiprocessing` has of a process that it has started."""

    def __init__(self, process_obj: PrestartedProcess) -> None:
        self._passed: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Called for each pipe or lock that goes to the new process, by this number."""
        self._passed.append(fd)
        return fd

    def _launch(self, process_obj: PrestartedProcess) -> None:
        """As `spawn` does it, but for the process, which is there."""
        assert process_obj.python is not None
        sent = io.BytesIO()
        set_spawning_popen(cast("Any", self))
        try:
            reduction.dump(spawn.get_preparation_data(process_obj.name), sent)
            reduction.dump(process_obj, sent)
        finally:
            set_spawning_popen(None)
        # The child's end of the first pipe is held by nothing else: it closes when the child ends.
        parent_r, child_w = os.pipe()
        child_r, parent_w = os.pipe()
        self.finalizer = Finalize(self, _close, (parent_r, parent_w))
        try:
            tracker_fd = cast("int", resource_tracker.getfd())
            fds = [tracker_fd, child_r, child_w, *self._passed]
            process_obj.python.become_process(fds, process_obj.read_later)
        finally:
            os.close(child_r)
            os.close(child_w)
        self.pid, self.sentinel = process_obj.python.pid, parent_r
        with open(parent_w, "wb", closefd=False) as pipe:
            pipe.write(sent.getbuffer())


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)
