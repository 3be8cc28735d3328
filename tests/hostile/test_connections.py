"""Connections that are opened and not used: idle, half-sent, slow, thrown away."""

import contextlib
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.e2e.machine_clock import clock_s
from tests.hostile.attack import CHAT, Target
from tests.hostile.wire import JSON, Address, as_json, head, post, round_trip

# More than the 4,096 at which HAProxy closed its door. A process has 20,000 descriptors here.
CONNECTIONS = int(os.environ.get("HOSTILE_CONNECTIONS", "6000"))
HALF_SENT = 1000
# A new client's answer, whatever is open.
LONGEST_NEW_S = 1.0
# Within this time a request that does not come to its end is given up.
GIVEN_UP_S = 45.0
TINY = as_json({"prompt": "hi", "max_tokens": 1})
LARGE = as_json({"prompt": "a " * 500_000, "max_tokens": 1})
HALF = {
    "half a head": b"POST /api/chat HTTP/1.1\r\nhost: hostile\r\nx-a: ",
    "a method": b"POS",
    "half a small body": head("POST", CHAT, (JSON,), length=len(TINY)) + TINY[:10],
    "half a large body": head("POST", CHAT, (JSON,), length=len(LARGE)) + LARGE[:50_000],
    "no body": head("POST", CHAT, (JSON,), length=len(TINY)),
    "a chunk without an end": head("POST", CHAT, (JSON, (b"transfer-encoding", b"chunked")))
    + b"ff\r\n{",
    "half a body for /v1": head("POST", "/v1/chat/completions", (JSON,), length=500) + b'{"model":',
    "half a body for tokenize": head("POST", f"{CHAT}/tokenize", (JSON,), length=500) + b"{",
    "half a body for messages": head("POST", f"{CHAT}/v1/messages", (JSON,), length=500) + b"{",
    "waits for a continue": head(
        "POST", CHAT, (JSON, (b"expect", b"100-continue")), length=len(TINY)
    ),
}


@contextmanager
def opened(address: Address, count: int, sending: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections that stay open, with the same bytes sent on each."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connection = address.connect()
            connections.append(connection)
            if sending:
                with contextlib.suppress(OSError):
                    connection.sendall(sending)
        yield connections
    finally:
        for connection in connections:
            connection.close()


def still_open(connections: Sequence[socket.socket]) -> int:
    """How many the server has not closed."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            while block := connection.recv(65536):
                del block
        except BlockingIOError:
            count += 1
        except OSError:
            continue
    return count


def new_client_waits_s(target: Target, name: str, *, may_be_full: bool = False) -> float:
    """For a tiny answer, on a connection of its own."""
    answer = round_trip(target.address, post(CHAT, TINY), limit_s=20)
    target.tally.add(f"a new client beside {name}", answer.status, answer.took_s)
    # A tier that works on what it was asked for may be full, and then says when to come back.
    is_full = answer.status == 429 and "retry-after" in dict(answer.headers)
    assert answer.status == 200 or (may_be_full and is_full), (name, answer)
    return answer.took_s


def bear_new_clients(target: Target, name: str, during_s: float) -> None:
    waits_s: list[float] = []
    started_s = clock_s()
    while clock_s() - started_s < during_s:
        waits_s.append(new_client_waits_s(target, name))
        time.sleep(0.2)
    assert max(waits_s) <= LONGEST_NEW_S, waits_s


def test_idle_connections_keep_nobody_out(target: Target) -> None:
    name = f"{CONNECTIONS} idle connections"
    with target.tally.attacking(name), opened(target.address, CONNECTIONS):
        bear_new_clients(target, name, 5)


def test_answered_connections_that_stay_keep_nobody_out(target: Target) -> None:
    request = head("GET", "/healthz").replace(b"connection: close\r\n", b"")
    with (
        target.tally.attacking("kept alive"),
        opened(target.address, HALF_SENT, request) as connections,
    ):
        bear_new_clients(target, "kept alive", 3)
        assert len(connections) == HALF_SENT


def test_half_sent_requests_keep_nobody_out_and_are_given_up(target: Target) -> None:
    """All kinds at once, a thousand in all."""
    with target.tally.attacking("half-sent requests"), contextlib.ExitStack() as stack:
        kinds = {
            name: stack.enter_context(opened(target.address, HALF_SENT // len(HALF), sent))
            for name, sent in HALF.items()
        }
        bear_new_clients(target, "half-sent requests", 5)
        started_s = clock_s()
        left: dict[str, int] = {}
        while clock_s() - started_s < GIVEN_UP_S:
            left = {name: open_ for name, all_ in kinds.items() if (open_ := still_open(all_))}
            if not left:
                break
            new_client_waits_s(target, "half-sent requests")
            time.sleep(1)
    assert left == {}, f"still open after {GIVEN_UP_S:.0f} s"
    target.wait_until_idle()


@pytest.mark.parametrize(
    "sent", [post(CHAT, TINY), post(CHAT, TINY)[-len(TINY) :]], ids=["head", "body"]
)
def test_a_byte_a_second_keeps_nobody_out(target: Target, sent: bytes) -> None:
    first = b"" if sent.startswith(b"POST") else head("POST", CHAT, (JSON,), length=len(TINY))
    with (
        target.tally.attacking("a byte a second"),
        opened(target.address, 300, first) as connections,
    ):
        for number in range(8):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.send(sent[number : number + 1])
            bear_new_clients(target, "a byte a second", 0.5)


def _reset(connection: socket.socket) -> None:
    """Closed with an RST, not with a FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _half_close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


LEAVING: dict[str, tuple[bytes, Callable[[socket.socket], None]]] = {
    "open and close": (b"", socket.socket.close),
    "open and reset": (b"", _reset),
    "ask and close": (post(CHAT, as_json({"prompt": "hi", "max_tokens": 64})), socket.socket.close),
    "ask and reset": (post(CHAT, as_json({"prompt": "hi", "max_tokens": 64})), _reset),
    "ask /v1 and reset": (
        post("/v1/chat/completions", as_json({"prompt": "hi", "max_tokens": 64})),
        _reset,
    ),
    "half a body and reset": (HALF["half a large body"], _reset),
    "half a body and close": (HALF["half a small body"], socket.socket.close),
    "half a head and half close": (HALF["half a head"], _half_close),
    "ask for a stream and reset": (
        post(CHAT, as_json({"prompt": "hi", "max_tokens": 500, "stream": True})),
        _reset,
    ),
    "garbage and reset": (os.urandom(64) * 64, _reset),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 512, _half_close),
    "tokenize and reset": (post(f"{CHAT}/tokenize", as_json({"prompt": "a " * 5000})), _reset),
}


@pytest.mark.parametrize("name", LEAVING)
def test_clients_that_leave_are_forgotten(target: Target, name: str) -> None:
    sent, leave = LEAVING[name]
    with target.tally.attacking(name):
        for _ in range(200):
            connection = target.address.connect()
            with contextlib.suppress(OSError):
                connection.sendall(sent)
            leave(connection)
            connection.close()
            target.tally.statuses["left"] += 1
    target.wait_until_idle(within_s=10)
    assert new_client_waits_s(target, name) <= LONGEST_NEW_S
    assert not target.deaths()


def test_many_requests_on_one_connection_are_answered_in_order(target: Target) -> None:
    request = post(CHAT, TINY).replace(b"connection: close\r\n", b"")
    with target.tally.attacking("pipelined"), target.address.connect() as connection:
        connection.sendall(request * 100)
        received = b""
        deadline_s = time.monotonic() + 30
        while received.count(b"HTTP/1.1 ") < 100 and time.monotonic() < deadline_s:
            if select.select([connection], [], [], 1)[0]:
                block = connection.recv(1 << 16)
                if not block:
                    break
                received += block
    assert received.count(b"HTTP/1.1 200") == 100, received[-500:]
    target.tally.statuses["200"] += 100


def test_pipelined_requests_that_nobody_reads_are_forgotten(target: Target) -> None:
    request = post(CHAT, TINY).replace(b"connection: close\r\n", b"")
    with target.tally.attacking("pipelined, unread"):
        with target.address.connect(receive_buffer=2048) as connection:
            connection.settimeout(2)
            with contextlib.suppress(OSError):
                connection.sendall(request * 2000)
            bear_new_clients(target, "pipelined, unread", 2)
        target.wait_until_idle()
