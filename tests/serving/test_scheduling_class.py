"""Who interrupts whom on shared cores: a cluster nobody, the engine that it starts everybody."""

import os
import subprocess
import sys

import pytest

from serve_app.serving.scheduling_class import interrupt_nobody, interrupting

TELL = (sys.executable, "-c", "import os; print(os.sched_getscheduler(0))")


def test_what_is_started_inherits_that_it_interrupts_nobody() -> None:
    told = subprocess.run(
        TELL, capture_output=True, text=True, check=True, preexec_fn=interrupt_nobody
    )

    assert int(told.stdout) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_an_engine_of_such_a_process_interrupts() -> None:
    script = """
import os, subprocess, threading
from pathlib import Path
from serve_app.serving.scheduling_class import interrupt_nobody, interrupting

interrupt_nobody()
done = threading.Event()
with interrupting():
    engine = subprocess.run(%r, capture_output=True, text=True, check=True)
    # As vLLM's client starts some in the replica.
    threading.Thread(target=done.wait).start()
classes = [os.sched_getscheduler(int(t.name)) for t in Path("/proc/self/task").iterdir()]
done.set()
print(engine.stdout.strip(), sorted(classes))
"""
    words = (sys.executable, "-c", script % (TELL,))
    told = subprocess.run(words, capture_output=True, text=True, check=True)

    assert told.stdout.strip() == f"{os.SCHED_OTHER} {[os.SCHED_BATCH] * 2}"


@pytest.mark.parametrize("chosen", [os.SCHED_OTHER, os.SCHED_IDLE])
def test_another_class_that_somebody_has_chosen_stays(chosen: int) -> None:
    script = """
import os, sys
from serve_app.serving.scheduling_class import interrupting

os.sched_setscheduler(0, int(sys.argv[1]), os.sched_param(0))
with interrupting():
    within = os.sched_getscheduler(0)
print(within, os.sched_getscheduler(0))
"""
    words = (sys.executable, "-c", script, str(chosen))
    told = subprocess.run(words, capture_output=True, text=True, check=True)

    assert told.stdout.split() == [str(chosen)] * 2


def test_a_sandbox_without_classes_loses_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    interrupt_nobody()
    monkeypatch.setattr(os, "sched_getscheduler", refused)
    with interrupting():
        pass
