"""Free TCP ports, and who holds one that is not free."""

import contextlib
import random
import socket
from collections.abc import Collection

import psutil

from serve_app.local.supervisor import RUN_ID_VARIABLE

# Below 32768, from where the kernel hands out ephemeral ports.
_SINGLE_PORTS = range(20000, 29000)
_BLOCK_STARTS = range(30000, 32600, 100)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Closed connections that linger do not count; a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError:
            return False
    return True


def free_ports(count: int, *, reserved: Collection[int] = ()) -> list[int]:
    """Different free ports, at random so that two starts at once hardly meet. None of `reserved`,
    where somebody will listen later."""
    candidates = random.sample(_SINGLE_PORTS, k=len(_SINGLE_PORTS))
    found: list[int] = []
    for port in candidates:
        if port not in reserved and is_free(port, "0.0.0.0"):
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"no {count} free ports between {_SINGLE_PORTS.start} and {_SINGLE_PORTS.stop}")


def free_port_block(size: int = 100) -> int:
    """The first of `size` ports in a row of which none is taken."""
    for start in random.sample(_BLOCK_STARTS, k=len(_BLOCK_STARTS)):
        if all(is_free(port, "0.0.0.0") for port in range(start, start + size)):
            return start
    raise OSError(f"no {size} free ports in a row from {_BLOCK_STARTS.start} on")


def holder_of(port: int) -> str:
    """Who listens on a port, in words; knows this user's processes only."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr:
                continue
            if connection.laddr.port == port and connection.pid:
                return _describe(psutil.Process(connection.pid))
    return "another process"


def _describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        if RUN_ID_VARIABLE in process.environ():
            starter = _starter(process)
            return f"another `tierserve serve` (stop it with Ctrl-C there, or `kill {starter}`)"
    return f"{process.name()} (process {process.pid})"


def _starter(process: psutil.Process) -> int:
    """The process that started the run: the parent of its supervisor."""
    for ancestor in process.parents():
        with contextlib.suppress(psutil.Error):
            if "serve_app.local.supervisor" in ancestor.cmdline():
                return ancestor.ppid()
    return process.pid
