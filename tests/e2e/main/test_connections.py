"""One client's connections against everybody else's: at the door of the real application."""

import asyncio
import contextlib
import json
import re
import resource
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.e2e.client import client_session
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import Site, assert_in_time

LATE_S = 1.0
# Ray's own limit is 4,096.
IDLE_CONNECTIONS = 5000
HALF_REQUESTS = 100
MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "chat", "messages": MESSAGES, "max_tokens": 2}
HALF_BODY = (
    b"POST /api/chat HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    b'content-length: %d\r\n\r\n{"prompt": "'
)
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def raw(site: Site, data: bytes) -> tuple[bytes, bool]:
    """What comes back within 20 seconds, and whether the connection was closed."""
    with socket.create_connection(("127.0.0.1", site.cluster.port)) as connection:
        connection.settimeout(20)
        connection.sendall(data)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except TimeoutError:
            return received, False
    return received, True


def error_of(answer: bytes) -> dict[str, Any]:
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]


def request(*headers: bytes, path: bytes = b"/v1/models") -> bytes:
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"host: a", *headers, b"", b""])


def test_everything_listens_on_loopback(site: Site) -> None:
    """Ray's ports, the replicas', HAProxy's metrics and its stats page: most ask for no key."""
    listening = [
        (process.name(), connection.laddr.ip, connection.laddr.port)
        for process in psutil.Process().children(recursive=True)
        for connection in connections_of(process)
        if connection.status == psutil.CONN_LISTEN and connection.laddr
    ]
    assert len({port for _, _, port in listening}) > 15
    assert site.cluster.port in {port for _, _, port in listening}
    assert [each for each in listening if each[1] not in LOOPBACK] == []


def connections_of(process: psutil.Process) -> list[Any]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.net_connections("tcp")
    return []


@pytest.mark.parametrize(
    "header", [b"x-session-id: \xff", b"serve_multiplexed_model_id: \xff", b"x-Session_id: \xff"]
)
def test_bytes_that_serve_cannot_decode_are_a_bad_request(site: Site, header: bytes) -> None:
    answer, closed = raw(site, request(header))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert closed
    assert set(error_of(answer)) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("given", [b"\xff", b"a b", b"", b"a" * 129, b"a\r\nx-request-id: b"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_a_malformed_request_id_is_replaced(site: Site, given: bytes, path: str) -> None:
    body = json.dumps(CHAT).encode()
    head = b"\r\n".join(
        [
            f"POST {path} HTTP/1.1".encode(),
            *(b"host: a", b"connection: close", b"content-type: application/json"),
            b"x-request-id: " + given,
            b"content-length: %d" % len(body),
        ]
    )
    with socket.create_connection(("127.0.0.1", site.cluster.port)) as connection:
        connection.sendall(head + b"\r\n\r\n" + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    (made,) = re.findall(rb"(?im)^x-request-id: *(.*?)\r$", answer)
    assert re.fullmatch(rb"[A-Za-z0-9_.:-]{1,128}", made)
    assert made not in given.split(b"\r\n")


@pytest.mark.parametrize("path", [b"/", b"/api/chat", b"/v1/chat/completions"])
def test_a_websocket_is_refused_and_closed(site: Site, path: bytes) -> None:
    upgrade = (b"connection: Upgrade", b"upgrade: websocket", b"sec-websocket-version: 13")
    key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="
    answer, closed = raw(site, request(*upgrade, key, path=path))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert closed
    assert error_of(answer)["code"] == "websocket_not_supported"


@contextlib.contextmanager
def crowd(site: Site) -> Iterator[None]:
    """Connections that say nothing, half a header, half a small body, half a large one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    half = [b"POST /api/chat HTTP/1.1\r\nho", HALF_BODY % 3000, HALF_BODY % 300_000 + b"a" * 50_000]
    with contextlib.ExitStack() as opened:
        for data in [b""] * IDLE_CONNECTIONS + half * HALF_REQUESTS:
            one = socket.create_connection(("127.0.0.1", site.cluster.port), timeout=30)
            opened.callback(one.close)
            one.sendall(data)
        yield


async def test_idle_connections_and_half_requests_delay_nobody(site: Site) -> None:
    """The full size, 20,000 connections of several processes, is in docs/adr/0021."""
    await assert_in_time(lambda: longest_wait_in_a_crowd(site), LATE_S)


async def longest_wait_in_a_crowd(site: Site) -> float:
    """Of those who come with a connection of their own meanwhile."""
    waits_s: list[float] = []
    with crowd(site):
        async with client_session() as session:
            until_s = clock_s() + 4
            while clock_s() < until_s:
                began_s = clock_s()
                async with session.get(f"{site.url}/healthz") as answer:
                    assert answer.status == 200
                waits_s.append(clock_s() - began_s)
                await asyncio.sleep(0.1)
        assert site.post("/api/chat", CHAT).status_code == 200
    return max(waits_s)
