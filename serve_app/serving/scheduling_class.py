"""Which of the processes that share a machine's cores may preempt the others: Linux' sched(7).

A cluster of `tierserve serve` runs as SCHED_BATCH. A process of that class that is woken takes a
free core, or waits until what runs there sleeps or has had its slice: it never preempts. So a
replica writes the chunks of many streams before HAProxy, which the first of them has woken, reads
any, and Ray's wake-ups, hundreds a second, stop nothing. The engine stays in the normal class and
preempts all of them: what it computes is what everyone waits for. On free cores the classes change
nothing. docs/adr/0018 has the figures.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def never_preempt() -> None:
    """From now on this thread, and what it starts, is SCHED_BATCH."""
    _set_class(0, os.SCHED_BATCH)


@contextlib.contextmanager
def preempting() -> Iterator[None]:
    """What this thread starts in the block may preempt, though this process never does. Any other
    class than SCHED_BATCH is somebody's choice, and stays as it is."""
    if not _never_preempts():
        yield
        return
    _set_class(0, os.SCHED_OTHER)
    try:
        yield
    finally:
        # Threads that were started in the block are this process' own.
        for thread in Path("/proc/self/task").iterdir():
            _set_class(int(thread.name), os.SCHED_BATCH)


def _never_preempts() -> bool:
    with contextlib.suppress(OSError):
        return os.sched_getscheduler(0) == os.SCHED_BATCH
    return False


def _set_class(thread_id: int, scheduling_class: int) -> None:
    # Changing between these two needs no right. A sandbox without them, and a thread that has ended
    # in the meantime, lose nothing but speed.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(thread_id, scheduling_class, os.sched_param(0))
