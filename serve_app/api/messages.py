"""Small ASGI pieces: request ids, bodies, error answers."""

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from starlette.types import Scope, Send

from serve_app.errors import RequestError

REQUEST_ID_HEADER = b"x-request-id"
HOP_BY_HOP = frozenset(
    {b"connection", b"content-length", b"host", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
# Each server says these of itself, once for an answer that goes through several.
SERVERS_OWN = frozenset({b"date", b"server"})
# The page's origin is answered where its browser asks, and by nothing behind it.
NOT_FORWARDED = HOP_BY_HOP | {b"origin"}
MAX_SHOWN_CHARS = 200
ENGINE_HEADERS = frozenset(
    {b"accept", b"host", b"traceparent", b"tracestate", b"user-agent", b"x-request-id"}
)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:\-]{1,128}")

Headers = Iterable[tuple[bytes, bytes]]


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a header, by its lower-case name."""
    for key, value in scope["headers"]:
        if key.lower() == name:
            return value
    return None


@dataclass(frozen=True, slots=True)
class RequestId:
    """`answer_headers` is empty where the server in front puts a well-formed id on the answer
    itself, as Serve does."""

    value: str
    answer_headers: tuple[tuple[bytes, bytes], ...] = ()


def take_request_id(scope: Scope) -> RequestId:
    """The given request id if it is well formed, otherwise a new one; written to the scope."""
    given = header(scope, REQUEST_ID_HEADER)
    if given is not None and _REQUEST_ID.fullmatch(given):
        return RequestId(given.decode())
    request_id = uuid.uuid4().hex
    scope["headers"] = [
        *((key, value) for key, value in scope["headers"] if key.lower() != REQUEST_ID_HEADER),
        (REQUEST_ID_HEADER, request_id.encode()),
    ]
    return RequestId(request_id, ((REQUEST_ID_HEADER, request_id.encode()),))


def path_below_root(scope: Scope) -> str:
    """The path without the prefix under which the application is mounted."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


def with_path(scope: Scope, path: str) -> Scope:
    """The scope with another path below the prefix under which the application is mounted."""
    if path == path_below_root(scope):
        return scope
    whole = scope.get("root_path", "") + path
    return {**scope, "path": whole, "raw_path": quote(whole).encode()}


def speaks_anthropic(scope: Scope) -> bool:
    """Whether the client reads errors in Anthropic's form: by the route, or by a header that
    Anthropic's clients send to every route."""
    below_v1 = path_below_root(scope).startswith("/v1/messages")
    return below_v1 or header(scope, b"anthropic-version") is not None


def shown(scope: Scope) -> str:
    """The path, as an error repeats it."""
    path: str = scope["path"]
    return path if len(path) <= MAX_SHOWN_CHARS else f"{path[:MAX_SHOWN_CHARS]}..."


def for_engine(scope: Scope, size_bytes: int, *more: tuple[bytes, bytes]) -> Scope:
    """The scope of a body that was read and written anew, as vLLM's application sees it: others of
    a client's headers would set the engine's priority, rank or session."""
    own = {name for name, _ in more}
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name.lower() in ENGINE_HEADERS and name.lower() not in own
    ]
    headers += [
        (b"content-length", b"%d" % size_bytes),
        (b"content-type", b"application/json"),
        *more,
    ]
    return {**scope, "headers": headers}


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


class ClientStalled(ClientGone):
    """The client took nothing of its answer for too long."""


async def send_body(
    send: Send, status: int, body: bytes, *, request_id: RequestId, headers: Headers = ()
) -> None:
    """A whole JSON answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *request_id.answer_headers,
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def send_error(
    send: Send,
    error: RequestError,
    *,
    request_id: RequestId,
    anthropic: bool = False,
    headers: Headers = (),
) -> None:
    """An error answer in OpenAI's form, with Retry-After where the client should come back."""
    body = error.body(anthropic=anthropic)
    await send_body(
        send, error.status, body, request_id=request_id, headers=[*error.retry_headers, *headers]
    )
