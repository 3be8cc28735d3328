"""HTTP as bytes: what no client library would send, and every header of the answer as it came."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.machine_clock import clock_s

Headers = Iterable[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")
CONNECT_LIMIT_S = 10.0


@dataclass(slots=True)
class Answer:
    """`status` 0: the connection ended, or the time was over, before an answer came."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    took_s: float = 0.0
    error: str = ""

    def values(self, name: str) -> list[str]:
        """Each value of a header, one for each line of it."""
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def content_type(self) -> str:
        return ", ".join(self.values("content-type"))

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Address":
        host, port = url.removeprefix("http://").split(":")
        return cls(host, int(port))

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        """`receive_buffer` in bytes: a small one is full as soon as nobody reads."""
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(CONNECT_LIMIT_S)
        try:
            connection.connect((self.host, self.port))
        except BaseException:
            connection.close()
            raise
        return connection


def head(
    method: bytes | str, path: bytes | str, headers: Headers = (), *, length: int | None = None
) -> bytes:
    """The head of a request, with nothing checked."""
    method = method.encode() if isinstance(method, str) else method
    path = path.encode("latin-1") if isinstance(path, str) else path
    lines = [method + b" " + path + b" HTTP/1.1", b"host: hostile", b"connection: close"]
    lines += [name + b": " + value for name, value in headers]
    if length is not None:
        lines.append(b"content-length: %d" % length)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(path: bytes | str, body: bytes, headers: Headers = (JSON,), method: str = "POST") -> bytes:
    """A whole request."""
    return head(method, path, headers, length=len(body)) + body


def as_json(payload: object) -> bytes:
    """With NaN and lone surrogates, where there are any, as Python writes them."""
    return json.dumps(payload).encode()


def round_trip(
    address: Address,
    request: bytes | Iterable[bytes],
    *,
    limit_s: float = 10.0,
    method: str = "POST",
) -> Answer:
    """Send the request and read its whole answer. It is read while it is sent, since a server may
    refuse a body before it has all of it."""
    started_s = clock_s()
    answer = Answer()
    parts = [request] if isinstance(request, bytes) else request
    try:
        with address.connect() as connection, _sending(connection, parts):
            _read(connection, answer, method, limit_s)
    except TimeoutError:
        answer.error = f"no end of the answer within {limit_s:.0f} s"
    except (OSError, http.client.HTTPException) as error:
        answer.error = repr(error)
    answer.took_s = clock_s() - started_s
    return answer


@contextlib.contextmanager
def _sending(connection: socket.socket, parts: Iterable[bytes]) -> Iterator[None]:
    def send() -> None:
        # What is refused early is not sent to its end.
        with contextlib.suppress(OSError):
            for part in parts:
                connection.sendall(part)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        sender.join(CONNECT_LIMIT_S)


def _read(connection: socket.socket, answer: Answer, method: str, limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    response = http.client.HTTPResponse(connection, method=method)
    with contextlib.closing(response):
        connection.settimeout(limit_s)
        response.begin()
        answer.status, answer.headers = response.status, response.getheaders()
        while block := response.read1(1 << 16):
            answer.body += block
            if time.monotonic() > deadline_s:
                raise TimeoutError
