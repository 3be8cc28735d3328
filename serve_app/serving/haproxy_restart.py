"""HAProxy as a child: this process, which Ray has started in its place, has the listening sockets,
and starts HAProxy again in them when it dies (docs/adr/0021).

Ray knows HAProxy by the number that its admin socket reports. So Ray's admin socket is this
process's, which hands commands to HAProxy and reports its own number for HAProxy's. At a reload
Ray starts this command once more, which takes the listening sockets over from the one before.

Started at each reload: standard library only, and none of its slow parts.
"""

import array
import contextlib
import ctypes
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

# HAProxy's own words.
_ADMIN = re.compile(r"^(\s*stats socket) (/\S+)(?: mode (\d+))?(.*)$", re.MULTILINE)
_BIND = re.compile(r"^(\s*bind) ([^\s@/]*):(\d+)(.*)$", re.MULTILINE)
_STATE_OF_LAST_RELOAD = re.compile(r"^\s*load-server-state-from-file .*\n", re.MULTILINE)
_PID_LINE = re.compile(rb"^Pid: \d+$", re.MULTILINE)
# Ours: who sends it gets the listening sockets, each with its address.
_TAKE_OVER = b"tierserve-sockets\n"
_MOST_SOCKETS = 16
_ADMIN_BACKLOG = 64
_MAX_COMMAND_BYTES = 65_536
_ADMIN_LIMIT_S = 30.0
# A HAProxy that dies so often is not helped by another start: Ray starts all anew.
MOST_RESTARTS = 5
RESTARTS_WITHIN_S = 10.0
_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class NotWatchedError(ValueError):
    """This configuration or command line is not one that can be watched."""


class Words(NamedTuple):
    """Ray's command line for HAProxy, taken apart."""

    config: Path
    # Where the HAProxy before listens for commands, at a reload.
    admin_before: str | None
    others: tuple[str, ...]


@dataclass(slots=True)
class Watched:
    """What HAProxy is started with, and what of it outlives HAProxy."""

    words: Words
    config_text: str
    admin_path: Path
    admin_mode: int
    # Where HAProxy itself takes commands; its socket is there before it.
    inner: socket.socket
    inner_path: Path
    listening: Mapping[str, socket.socket]
    restarts_s: list[float] = field(default_factory=list[float])


def words_of(arguments: Sequence[str]) -> Words:
    """Raises NotWatchedError for other words than Ray's."""
    config, admin_before, others = None, None, []
    rest = iter(arguments)
    for word in rest:
        if word == "-f" and config is None:
            config = Path(next(rest, ""))
        elif word == "-x":
            admin_before = next(rest, "")
        elif word in ("-f", "-c", "-W", "-D"):
            raise NotWatchedError(f"with {word} once more or at all")
        else:
            others.append(word)
    if config is None or "-db" not in others:
        raise NotWatchedError("without -f or -db")
    return Words(config, admin_before, tuple(others))


def run(binary: str, arguments: Sequence[str]) -> int:
    """HAProxy's exit status, once it has ended and is not to be started again.

    Raises NotWatchedError or OSError before HAProxy is started, and never afterwards.
    """
    # Before any child can end.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (*_FORWARDED, signal.SIGCHLD):
        signal.signal(number, _woken_up)
    watched = prepared(words_of(arguments))
    try:
        return _Run(binary, watched, woken).to_the_end()
    finally:
        watched.inner_path.unlink(missing_ok=True)


def prepared(words: Words) -> Watched:
    """Sockets of our own in the place of the addresses in HAProxy's configuration."""
    text = words.config.read_text()
    admin = _ADMIN.search(text)
    if admin is None:
        raise NotWatchedError("no line `stats socket`")
    admin_path = Path(admin[2])
    kept = _taken_over(words.admin_before) if words.admin_before else {}
    listening: dict[str, socket.socket] = {}
    for bind in _BIND.finditer(text):
        host, port = bind[2], int(bind[3])
        listening[f"{host}:{port}"] = kept.pop(f"{host}:{port}", None) or _bound(host, port)
    for unused in kept.values():
        unused.close()
    inner_path = admin_path.with_name(f"{admin_path.name}.{os.getpid()}")
    inner_path.unlink(missing_ok=True)
    inner = socket.socket(socket.AF_UNIX)
    inner.bind(str(inner_path))
    inner_path.chmod(0o600)
    inner.listen(_ADMIN_BACKLOG)
    for each in (inner, *listening.values()):
        each.set_inheritable(True)
    text = _ADMIN.sub(lambda line: f"{line[1]} fd@{inner.fileno()}{line[4]}", text, count=1)
    text = _BIND.sub(
        lambda line: f"{line[1]} fd@{listening[f'{line[2]}:{line[3]}'].fileno()}{line[4]}", text
    )
    mode = int(admin[3] or "600", 8)
    return Watched(words, text, admin_path, mode, inner, inner_path, listening)


class _Run:
    """One HAProxy after the other, until one is to end."""

    def __init__(self, binary: str, watched: Watched, woken: int) -> None:
        self._binary, self._watched, self._woken = binary, watched, woken
        self._set_death_signal = ctypes.CDLL(None, use_errno=True).prctl
        self._admin: socket.socket | None = None
        self._stopping = False
        self._pid = self._started(watched.config_text, watched.words.others)

    def to_the_end(self) -> int:
        first_answer = self._asked()
        while True:
            # Ray takes HAProxy for up once its admin socket answers, so it does when it is.
            waited = [self._woken, self._admin or first_answer]
            ready, _, _ = select.select(waited, [], [])
            if self._woken in ready:
                status = self._after_signals()
                if status is not None:
                    return status
            if self._admin is None and first_answer in ready:
                first_answer.close()
                self._admin = _listening_at(self._watched.admin_path, self._watched.admin_mode)
            elif self._admin is not None and self._admin in ready:
                self._answer_one(self._admin)

    def _asked(self) -> socket.socket:
        """A connection that has something to read once HAProxy runs."""
        asking = socket.socket(socket.AF_UNIX)
        asking.connect(str(self._watched.inner_path))
        asking.sendall(b"show version\n")
        return asking

    def _started(self, config_text: str, words: Sequence[str]) -> int:
        # Ray may be writing the next file in the place of this one.
        config = os.memfd_create("haproxy.cfg", 0)
        with os.fdopen(os.dup(config), "w") as file:
            file.write(config_text)
        parent, command = os.getpid(), [self._binary, *words, "-f", f"/dev/fd/{config}"]
        child = os.fork()
        if child == 0:
            # Without this process nobody could stop it: it ends what it has begun, and goes. Ray
            # may end its actor's process group with the actor.
            os.setsid()
            self._set_death_signal(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
            if os.getppid() == parent:
                with contextlib.suppress(OSError):
                    os.execv(self._binary, command)
            os._exit(127)
        os.close(config)
        return child

    def _after_signals(self) -> int | None:
        """The status to end with; None while HAProxy runs, perhaps another one."""
        for number in os.read(self._woken, 4096):
            if number in _FORWARDED:
                self._stop(number)
        ended, status = os.waitpid(self._pid, os.WNOHANG)
        if ended == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        if self._stopping or self._admin is None or not self._may_restart():
            return code if code >= 0 else 128 - code
        _say(f"HAProxy {self._pid} has ended with {code}; another one takes its sockets")
        text = _STATE_OF_LAST_RELOAD.sub("", self._watched.config_text)
        self._pid = self._started(text, _without_soft_stops(self._watched.words.others))
        return None

    def _may_restart(self) -> bool:
        now_s, before_s = time.monotonic(), self._watched.restarts_s
        before_s[:] = [each for each in before_s if now_s - each < RESTARTS_WITHIN_S]
        before_s.append(now_s)
        return len(before_s) <= MOST_RESTARTS

    def _stop(self, number: int) -> None:
        """HAProxy ends, at once or with its last stream; nobody comes in through here.

        HAProxy closes its own, but with `-db` it leaves what it has closed in its epoll set (it
        takes out `FD_CLONED` ones, those of before a fork of its own). Were the admin socket still
        open here, a command that came now would be one that nobody accepts: it would wake all of
        HAProxy's threads again and again, a core for as long as its last stream takes, and Ray
        would wait for the answer.
        """
        self._stopping = True
        for each in (self._watched.inner, *self._watched.listening.values()):
            each.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def _answer_one(self, admin: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = admin.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_ADMIN_LIMIT_S)
            command = b""
            while not command.endswith(b"\n") and len(command) < _MAX_COMMAND_BYTES:
                if not (piece := connection.recv(_MAX_COMMAND_BYTES)):
                    break
                command += piece
            if command == _TAKE_OVER:
                _hand_over(connection, self._watched.listening)
                return
            with socket.socket(socket.AF_UNIX) as inner:
                inner.settimeout(_ADMIN_LIMIT_S)
                inner.connect(str(self._watched.inner_path))
                inner.sendall(command)
                answer = b""
                while piece := inner.recv(1 << 16):
                    answer += piece
            connection.sendall(_PID_LINE.sub(b"Pid: %d" % os.getpid(), answer))


def _woken_up(_number: int, _frame: object) -> None:
    """Python writes the number to the pipe only where a signal has a handler."""


def _without_soft_stops(words: Sequence[str]) -> tuple[str, ...]:
    """Without `-sf` and the numbers behind it: these have been stopped by the one before."""
    kept: list[str] = []
    numbers = False
    for word in words:
        numbers = word in ("-sf", "-st") or (numbers and word.isdigit())
        if not numbers:
            kept.append(word)
    return tuple(kept)


def _bound(host: str, port: int) -> socket.socket:
    """As HAProxy binds an address; HAProxy itself begins to listen."""
    wanted = "0.0.0.0" if host in ("", "*") else host.strip("[]")  # noqa: S104 - the address that Ray has configured
    family, kind, protocol, _, address = socket.getaddrinfo(
        wanted, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"{error.strerror}: {wanted}:{port}") from None
    return made


def _listening_at(path: Path, mode: int) -> socket.socket:
    """In the place of what was there, without a moment in between."""
    made, aside = socket.socket(socket.AF_UNIX), path.with_name(f"{path.name}.{os.getpid()}.new")
    made.bind(str(aside))
    aside.chmod(mode)
    made.listen(_ADMIN_BACKLOG)
    aside.replace(path)
    return made


def _hand_over(connection: socket.socket, listening: Mapping[str, socket.socket]) -> None:
    names = " ".join(listening).encode()
    fds = array.array("i", [each.fileno() for each in listening.values()])
    connection.sendmsg([names], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


def _taken_over(admin_path: str) -> dict[str, socket.socket]:
    """The listening sockets of the process that answers there; none where it has none to give."""
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(_ADMIN_LIMIT_S)
            asking.connect(admin_path)
            asking.sendall(_TAKE_OVER)
            names, fds, _, _ = socket.recv_fds(asking, _MAX_COMMAND_BYTES, _MOST_SOCKETS)
    except OSError as error:
        _say(f"no sockets are taken over: {error}")
        return {}
    return {
        name: socket.socket(fileno=fd)
        for name, fd in zip(names.decode().split(" "), fds, strict=False)
    }


def _say(message: str) -> None:
    sys.stderr.write(f'{{"level": "WARNING", "message": "tierserve-haproxy: {message}"}}\n')
    sys.stderr.flush()
