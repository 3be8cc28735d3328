"""The other process of the grammar sandbox: compiles what strangers send, each in a forked child.

`python -m serve_app.engine.grammar.worker FD` takes jobs from a socket and answers on it. It loads
xgrammar and the vocabulary once and never compiles anything itself. A child that crashes, or that
is stopped at one of its limits, is an answer too.
"""

import contextlib
import ctypes
import gc
import json
import os
import re
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

from serve_app.engine.grammar.compiler import Grammars, Job, JobLimits, import_xgrammar

# What a child has said of a grammar that it could not take, cut.
MOST_DETAIL_CHARS = 300
# More than a child has to say.
MOST_ANSWER_BYTES = 4 * 1024 * 1024
# A child gets a quarter of a core that the engine wants too.
NICENESS = 5
# As much of the stack as the smallest thread that will compile the same has, halved.
DEFAULT_STACK_BYTES = 2 * 1024 * 1024
MOST_STACK_BYTES = 4 * 1024 * 1024
_FAILED_CHECK = re.compile(r"^Check failed: (?:\(.*?\) is false: )?")
_LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1


def frame(message: object) -> bytes:
    """JSON with its length in front."""
    body = json.dumps(message).encode()
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Takes messages out of a stream of bytes."""

    def __init__(self) -> None:
        self._left = bytearray()

    def add(self, read: bytes) -> list[Any]:
        """The messages that have become whole."""
        self._left += read
        messages: list[Any] = []
        while len(self._left) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._left)
            end = _LENGTH.size + length
            if len(self._left) < end:
                break
            messages.append(json.loads(self._left[_LENGTH.size : end]))
            del self._left[:end]
        return messages


def main(fd: int) -> None:
    """Serve jobs until the other side of the socket closes."""
    # A replica that is killed leaves nothing behind.
    _die_with_parent()
    with socket.socket(fileno=fd) as connection:
        Zygote(connection).serve()


class Zygote:
    """Single-threaded, so that it may fork at any time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)
        self._frames = Frames()
        self._children: dict[int, _Child] = {}
        self._grammars: Grammars | None = None

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select(self._until_next_deadline_s()):
                if key.fileobj is self._connection:
                    if not self._take_messages():
                        return
                else:
                    self._read_from(key.data)
            self._end_overdue()

    def _take_messages(self) -> bool:
        """False once the other side has closed."""
        try:
            read = self._connection.recv(1 << 20)
        except ConnectionError:
            read = b""
        for message in self._frames.add(read):
            if "vocabulary" in message:
                self._grammars = Grammars(message["vocabulary"], import_xgrammar())
                # What a child frees of these objects would be copied first.
                gc.collect()
                gc.freeze()
                self._answer({"number": 0, "ready": True})
            elif "cancel" in message:
                child = self._children.get(message["cancel"])
                if child is not None:
                    child.kill()
            else:
                limits = JobLimits(**message.pop("limits"))
                self._fork(Job(**message, limits=limits))
        return bool(read)

    def _fork(self, job: Job) -> None:
        assert self._grammars is not None
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            self._connection.close()
            run_in_child(self._grammars, job, writing)
        os.close(writing)
        child = _Child(job.number, pid, reading, time.monotonic() + job.limits.wall_s)
        self._children[job.number] = child
        self._selector.register(reading, selectors.EVENT_READ, child)

    def _read_from(self, child: "_Child") -> None:
        read = os.read(child.reading, 1 << 16)
        child.said += read
        if len(child.said) > MOST_ANSWER_BYTES:
            child.kill()
        if not read:
            self._selector.unregister(child.reading)
            os.close(child.reading)
            del self._children[child.number]
            self._answer({"number": child.number, **child.verdict()})

    def _until_next_deadline_s(self) -> float | None:
        deadlines_s = [child.deadline_s for child in self._children.values()]
        return max(0.0, min(deadlines_s) - time.monotonic()) if deadlines_s else None

    def _end_overdue(self) -> None:
        now_s = time.monotonic()
        for child in self._children.values():
            if child.deadline_s <= now_s:
                child.overdue = True
                child.kill()
                child.deadline_s = now_s + 1.0

    def _answer(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):
            self._connection.sendall(frame(message))


@dataclass(slots=True)
class _Child:
    number: int
    pid: int
    reading: int
    deadline_s: float
    said: bytes = b""
    overdue: bool = False

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def verdict(self) -> dict[str, Any]:
        """What it has said, or what it died of."""
        _, status = os.waitpid(self.pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            with contextlib.suppress(ValueError):
                return json.loads(self.said)
        if self.overdue:
            return {"limit": "wall"}
        died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if died_of in (signal.SIGPROF, signal.SIGXCPU):
            return {"limit": "time"}
        if died_of in (signal.SIGSEGV, signal.SIGBUS):
            return {"limit": "depth"}
        return {"limit": "memory"}


def run_in_child(grammars: Grammars, job: Job, writing: int) -> None:
    """Say on a pipe what comes of a job, and end this process."""
    code = 1
    try:
        said = _within_limits(grammars, job)
        data = memoryview(json.dumps(said).encode())
        while data:
            data = data[os.write(writing, data) :]
        code = 0
    finally:
        os._exit(code)


def _within_limits(grammars: Grammars, job: Job) -> dict[str, Any]:
    _die_with_parent()
    os.nice(NICENESS)
    # xgrammar writes there what it does not like, and with it the client's text.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123
        score.write("1000")
    limits = job.limits
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_STACK, stack_bytes())
    _limit(resource.RLIMIT_AS, _address_space_bytes() + limits.memory_bytes)
    _limit(resource.RLIMIT_CPU, int(limits.cpu_s) + 2)
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
    gc.disable()
    try:
        return grammars.closing(job) if job.answer is not None else grammars.check(job)
    except MemoryError:
        return {"limit": "memory"}
    except UnicodeError:
        # xgrammar's message has a part of the client's text, cut inside of a character.
        return {"limit": "invalid", "detail": "not understood"}
    except Exception as error:  # noqa: BLE001  (of xgrammar, of any type)
        text = str(error)
        if "bad_alloc" in text or "length_error" in text:
            return {"limit": "memory"}
        return {"limit": "invalid", "detail": _without_source(text)[:MOST_DETAIL_CHARS]}


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def stack_bytes() -> int:
    """Half of what a thread gets in the replica and in the engine, by glibc's rule."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    thread = DEFAULT_STACK_BYTES if soft == resource.RLIM_INFINITY else soft
    return min(thread // 2, MOST_STACK_BYTES)


def _address_space_bytes() -> int:
    with open("/proc/self/statm") as sizes:  # noqa: PTH123
        return int(sizes.read().split()[0]) * resource.getpagesize()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _without_source(text: str) -> str:
    """xgrammar's `[time] /its/source.cc:12: Check failed: (x) is false: message`, from the message
    on."""
    head, found, rest = text.partition(".cc:")
    if "std::" in text or "validation error" in text:
        return "a part of it has the wrong type"
    if not found:
        return " ".join(text.split()) or "not understood"
    message = _FAILED_CHECK.sub("", rest.partition(": ")[2]).partition("The JSON string")[0]
    return " ".join(message.split()) or head


if __name__ == "__main__":
    main(int(sys.argv[1]))
