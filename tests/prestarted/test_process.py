"""A pre-started Python that becomes a process of `multiprocessing`, and one that is not wanted."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest
import setproctitle

from serve_app.prestarted.process import PrestartedProcess
from serve_app.prestarted.python import PrestartedPython
from serve_app.prestarted.wire import Handover, place_fds, receive, send

# Of any module that a new Python does not have by itself.
MODULE = "sched"
PREPARE = f"{MODULE}:scheduler"


def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def answer(queue: Any, lock: Any) -> None:
    """In the new process."""
    had_it = MODULE in sys.modules
    with lock:
        queue.put((os.getpid(), os.getppid(), had_it, os.environ["OWN"], str(Path.cwd())))
    sys.exit(3)


@pytest.mark.parametrize(
    ("read_later", "has_imported"),
    [
        pytest.param(("OWN",), True, id="nothing that it has read is another"),
        pytest.param((), False, id="it begins again, as the same process"),
    ],
)
def test_it_becomes_a_child_with_what_its_parent_has_now(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    read_later: tuple[str, ...],
    *,
    has_imported: bool,
) -> None:
    """Its environment and folder, and the pipes and locks that it is given."""
    monkeypatch.setenv("OWN", "before")
    python = PrestartedPython.start(PREPARE)
    monkeypatch.setenv("OWN", "now")
    monkeypatch.chdir(tmp_path)
    context = get_context("spawn")
    queue, lock = context.SimpleQueue(), context.Lock()
    process = PrestartedProcess(python, read_later, target=answer, args=(queue, lock))
    process.start()
    assert queue.get() == (python.pid, os.getpid(), has_imported, "now", str(tmp_path))
    process.join()
    assert (process.pid, process.exitcode) == (python.pid, 3)
    queue.close()


class Imported:
    """What a process has until it ends, or its modules are taken apart."""

    def __init__(self, folder: Path) -> None:
        self.make_folder = partial(os.mkdir, folder)

    def __del__(self) -> None:
        self.make_folder()


def leave(folder: Path) -> None:
    atexit.register((folder / "exit function").touch)
    globals()["imported"] = Imported(folder / "taken apart")


def test_it_ends_with_its_exit_functions_and_takes_no_module_apart(tmp_path: Path) -> None:
    process = PrestartedProcess(PrestartedPython.start(PREPARE), target=leave, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["exit function"]


def sleep() -> None:
    time.sleep(600)


def test_it_can_be_ended_and_waited_for_as_any_other() -> None:
    process = PrestartedProcess(PrestartedPython.start(PREPARE), target=sleep)
    process.start()
    assert process.is_alive()
    process.terminate()
    process.join(timeout=30)
    assert process.exitcode == -signal.SIGTERM


def test_one_that_is_not_wanted_is_gone_at_once() -> None:
    python = PrestartedPython.start(PREPARE)
    python.end()
    assert not psutil.pid_exists(python.pid)
    python.end()


def test_one_that_has_ended_is_an_error_of_the_start() -> None:
    python = PrestartedPython.start("not_a_module:prepare")
    os.waitid(os.P_PID, python.pid, os.WEXITED | os.WNOWAIT)
    process = PrestartedProcess(python, target=sleep)
    with pytest.raises(OSError, match="Broken pipe"):
        process.start()
    python.end()


def test_it_ends_with_its_parent() -> None:
    parent = """
        import os
        from serve_app.prestarted.python import PrestartedPython
        print(PrestartedPython.start("gc:collect").pid, flush=True)
        os._exit(0)
    """
    command = [sys.executable, "-c", textwrap.dedent(parent)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    until(lambda: not psutil.pid_exists(int(shown)))


def test_descriptors_take_their_numbers_even_where_these_are_each_others() -> None:
    code = """
        import os
        from serve_app.prestarted.wire import place_fds
        pipes = [os.pipe() for _ in range(3)]
        for number, (_, write_end) in enumerate(pipes):
            os.write(write_end, str(number).encode())
        a, b, c = (read_end for read_end, _ in pipes)
        place_fds([a, b, c], [b, c, a])
        print([os.read(fd, 9) for fd in (b, c, a)] == [b"0", b"1", b"2"])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_a_handover_comes_as_it_was_sent_however_long() -> None:
    here, there = socket.socketpair()
    with here, there:
        environment = {"LONG": "x" * 100_000, "ODD": "\udcff"}
        sent = Handover(environment, "/a folder", [here.fileno()], ["VLLM_"])
        send(here, sent)
        got = receive(there)
        assert got is not None
        assert got[0] == sent
        place_fds(got[1], got[1])
        for fd in got[1]:
            os.close(fd)
        here.close()
        assert receive(there) is None


def test_a_process_begins_again_for_what_it_may_have_read_by_now() -> None:
    now = {"LD_PRELOAD": "a.so", "VLLM_LATER": "2", "SAME": "1", "RAY_ADDRESS": "x"}
    handover = Handover(now, "/", [], ["VLLM_", "RAY_ADDRESS"])
    began = {"VLLM_LATER": "1", "SAME": "1", "GONE": "1"}
    assert handover.changed(began, began) == ["LD_PRELOAD"]
    assert handover.changed({**began, "LD_PRELOAD": "b.so"}, began) == ["LD_PRELOAD"]
    # The linker had no such value when the process began.
    assert handover.changed(began, {**began, "LD_PRELOAD": "a.so"}) == ["LD_PRELOAD"]
    assert not handover.changed({**began, "LD_PRELOAD": "a.so"}, {"SET_AT_IMPORT": "1"})
    handover = Handover({"TORCH_SET": "1"}, "/", [], [])
    assert not handover.changed(began, {**began, "TORCH_SET": "1"})


def rename_and_wait(renamed: Any, over: Any) -> None:
    """In the new process."""
    setproctitle.setproctitle("VLLM::Something")
    renamed.set()
    over.wait(30)


def test_it_can_give_itself_a_title_although_its_environment_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By which others find a process: operators, and studies that kill it."""
    python = PrestartedPython.start(PREPARE)
    monkeypatch.setenv("OWN", "now")
    context = get_context("spawn")
    renamed, over = context.Event(), context.Event()
    process = PrestartedProcess(python, ("OWN",), target=rename_and_wait, args=(renamed, over))
    process.start()
    assert renamed.wait(30)
    assert psutil.Process(python.pid).cmdline()[0] == "VLLM::Something"
    over.set()
    process.join(30)
    assert process.exitcode == 0
