"""Stands before the service as a full tier does: the first request is refused with 429 and
Retry-After, the others are passed on. A real tier is hard to fill at will."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from serve_app.errors import RequestError

RETRY_AFTER_S = 2
_REFUSAL = RequestError(
    429,
    f"The reasoning tier is full: 8 requests are ahead. Come back in {RETRY_AFTER_S} s.",
    code="queue_full",
    retry_after_s=RETRY_AFTER_S,
)


class _Front(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: str, refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.left = refusals


class _Handler(BaseHTTPRequestHandler):
    server: _Front  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.left -= 1
        if self.server.left >= 0:
            self._answer(429, _REFUSAL.body(), {"retry-after": str(RETRY_AFTER_S)})
            return
        headers = {"content-type": "application/json"}
        answer = httpx.post(self.server.behind + self.path, content=body, headers=headers)
        self._answer(answer.status_code, answer.content, {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        own = {"content-type": "application/json", "content-length": str(len(body))}
        for name, value in {**own, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not on the table's output."""


@contextmanager
def refusing(behind: str, refusals: int = 1) -> Iterator[str]:
    """The address of a front that refuses so many requests."""
    front = _Front(behind, refusals)
    threading.Thread(target=front.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{front.server_port}"
    finally:
        front.shutdown()
        front.server_close()
