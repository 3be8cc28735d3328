"""Who preempts whom on shared cores: a cluster never, the engine that it starts always."""

import os
import subprocess
import sys

import pytest

from serve_app.serving.scheduling_class import never_preempt, preempting

TELL = (sys.executable, "-c", "import os; print(os.sched_getscheduler(0))")


def test_what_is_started_inherits_that_it_never_preempts() -> None:
    reported = subprocess.run(
        TELL, capture_output=True, text=True, check=True, preexec_fn=never_preempt
    )

    assert int(reported.stdout) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_an_engine_of_such_a_process_preempts() -> None:
    script = """
import os, subprocess, threading
from pathlib import Path
from serve_app.serving.scheduling_class import never_preempt, preempting

never_preempt()
done = threading.Event()
with preempting():
    engine = subprocess.run(%r, capture_output=True, text=True, check=True)
    # As vLLM's client starts some in the replica.
    threading.Thread(target=done.wait).start()
classes = [os.sched_getscheduler(int(t.name)) for t in Path("/proc/self/task").iterdir()]
done.set()
print(engine.stdout.strip(), sorted(classes))
"""
    words = (sys.executable, "-c", script % (TELL,))
    reported = subprocess.run(words, capture_output=True, text=True, check=True)

    assert reported.stdout.strip() == f"{os.SCHED_OTHER} {[os.SCHED_BATCH] * 2}"


@pytest.mark.parametrize("chosen", [os.SCHED_OTHER, os.SCHED_IDLE])
def test_another_class_that_somebody_has_chosen_stays(chosen: int) -> None:
    script = """
import os, sys
from serve_app.serving.scheduling_class import preempting

os.sched_setscheduler(0, int(sys.argv[1]), os.sched_param(0))
with preempting():
    within = os.sched_getscheduler(0)
print(within, os.sched_getscheduler(0))
"""
    words = (sys.executable, "-c", script, str(chosen))
    reported = subprocess.run(words, capture_output=True, text=True, check=True)

    assert reported.stdout.split() == [str(chosen)] * 2


def test_a_sandbox_without_classes_loses_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    never_preempt()
    monkeypatch.setattr(os, "sched_getscheduler", refused)
    with preempting():
        pass
