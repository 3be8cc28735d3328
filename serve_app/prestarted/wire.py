"""What a process says to the pre-started Python that is to become its child: once, over a socket.

Its length, then JSON: the environment and the folder as they are now, and the file descriptors,
which come with the first bytes, by the numbers that they have with the sender.
"""

import fcntl
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

_LENGTH = struct.Struct("!I")
# The kernel passes no more at once.
MOST_FDS = 250
# The dynamic linker and the C library have read theirs before any import can set them.
READ_AT_BEGIN = ("LD_", "GLIBC_", "MALLOC_")


@dataclass(frozen=True, slots=True)
class Handover:
    """`fds` by their numbers in the process that hands over. `read_later` are the variables of the
    environment, or what their names begin with, that a process reads when it needs them: all others
    may be read when it begins, or imports."""

    environment: dict[str, str]
    folder: str
    fds: list[int]
    read_later: list[str]

    def changed(self, began: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
        """The variables for whose sake a process that began with one environment, and has another
        now, must begin again. What its own imports have set, any process' would."""
        return sorted(
            name
            for name, value in self.environment.items()
            if value != began.get(name)
            and (value != now.get(name) or name.startswith(READ_AT_BEGIN))
            and not name.startswith(tuple(self.read_later))
        )


def send(channel: socket.socket, handover: Handover) -> None:
    """Raises OSError where nobody is there any more."""
    body = json.dumps(asdict(handover)).encode()
    message = _LENGTH.pack(len(body)) + body
    sent = socket.send_fds(channel, [message], handover.fds)
    # Who has it all may have closed already, and then not even nothing can be sent.
    if rest := message[sent:]:
        channel.sendall(rest)


def receive(channel: socket.socket) -> tuple[Handover, list[int]] | None:
    """What was handed over, and the file descriptors by their numbers here; None where the other
    end was closed instead."""
    first, received, _, _ = socket.recv_fds(channel, 65536, MOST_FDS)
    data = bytearray(first)
    while len(data) < _LENGTH.size or len(data) < _LENGTH.size + _LENGTH.unpack_from(data)[0]:
        if not (more := channel.recv(65536)):
            return None
        data += more
    return Handover(**json.loads(data[_LENGTH.size :])), list(received)


def place_fds(received: Sequence[int], numbers: Sequence[int]) -> None:
    """Give file descriptors the numbers that they had with the sender. What this process had open
    under such a number is closed."""
    above = max([*numbers, *received, 2]) + 1
    # First out of the way of all numbers that are wanted.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in received]
    for fd in received:
        os.close(fd)
    for copy, number in zip(copies, numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)
