"""One generating request as it came and as the tier's rules have left it: frozen once it is known.

What became of it is a `RequestOutcome` (request_record.py).
"""

import asyncio
import hashlib
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.types import Message, Receive, Scope

from serve_app.api.answer_deadline import AnswerDeadline
from serve_app.api.replay_wire import Resumption
from serve_app.api.routes import Endpoint
from serve_app.api.rules import PreparedRequest
from serve_app.core.access.caller import NOBODY, Caller
from serve_app.core.replay.journal import Journal
from serve_app.core.tiers import Tier

if TYPE_CHECKING:
    from serve_app.api.request_spans import RequestTrace

REQUEST_ID_HEADER = b"x-request-id"
# OpenAI's clients identify themselves by the first, Anthropic's by the second.
CREDENTIAL_HEADERS = (b"authorization", b"x-api-key")
ENGINE_HEADERS = frozenset(
    {b"accept", b"host", b"traceparent", b"tracestate", b"user-agent", b"x-request-id"}
)
MAX_SHOWN_CHARS = 200
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:\-]{1,128}")


@dataclass(frozen=True, slots=True)
class RequestId:
    """`response_headers` is empty where the server in front puts a well-formed id on the response
    itself, as Serve does."""

    value: str
    response_headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RequestContext:
    """`received` is the body as it came, `body` the request after the tier's rules; `client` a
    digest of its credentials, None without any; `forwarded_here`: another replica has forwarded
    it; `borrower`: the tier whose rules those were, where this one only lends its slots; `caller`:
    whose request it is; `journal`: what the engines have done for it, None where nobody follows
    its stream; `resumption`: where it goes on, of one that another replica has begun; `deadline`:
    when its answer is to be complete, None where it may take its time."""

    scope: Scope
    receive: Receive
    endpoint: Endpoint
    request_id: str
    client: bytes | None
    received: bytes
    prepared: PreparedRequest
    body: bytes
    forwarded_here: bool = False
    borrower: Tier | None = None
    caller: Caller = NOBODY
    # None: requests are not traced.
    trace: "RequestTrace | None" = None
    journal: Journal | None = None
    resumption: Resumption | None = None
    deadline: AnswerDeadline | None = None

    @property
    def past_tokens(self) -> int:
        """Of its answers, those that other replicas have made."""
        past = () if self.journal is None else self.journal.past
        return sum(len(step.token_ids) for step in past)

    @property
    def past_tokens_each(self) -> int:
        """Of one of its sequences, in the mean."""
        return self.past_tokens // max(1, self.prepared.sequences)

    @property
    def retry_key(self) -> int:
        """As `retry_key`."""
        return retry_key(self.client, self.received)

    @property
    def is_retry(self) -> bool:
        """As `is_retry`."""
        return is_retry(self.scope)

    def engine_scope(self, engine_id: str) -> Scope:
        """The scope that vLLM's application sees: its own path, the length of the body, and the
        request's id in the engine."""
        path = self.scope.get("root_path", "") + self.endpoint.path
        scope = for_engine(self.scope, len(self.body), (REQUEST_ID_HEADER, engine_id.encode()))
        # From version 2.4 on a stream need not listen for a disconnect, which is done here.
        asgi = {**self.scope.get("asgi", {"version": "3.0"}), "spec_version": "2.4"}
        return {**scope, "path": path, "raw_path": path.encode(), "asgi": asgi}

    @asynccontextmanager
    async def disconnection(self) -> AsyncIterator[asyncio.Future[Message]]:
        """Done when the client has disconnected. The body has been read, so nothing else can
        come."""
        disconnected = asyncio.ensure_future(self.receive())
        try:
            yield disconnected
        finally:
            disconnected.cancel()
            with suppress(asyncio.CancelledError):
                await disconnected


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


def retry_key(client: bytes | None, received: bytes) -> int:
    """The same for the same request of the same sender."""
    return hash((client, received))


def is_retry(scope: Scope) -> bool:
    """The openai SDKs count their retries in a header."""
    return (header(scope, b"x-stainless-retry-count") or b"0") != b"0"


def client_of(scope: Scope) -> bytes | None:
    """A digest of the credentials that the request carries, for what must not cross from one
    client to another; None where it carries none."""
    given = [header(scope, name) for name in CREDENTIAL_HEADERS]
    if not any(given):
        return None
    return hashlib.sha256(b"\0".join(value or b"" for value in given)).digest()


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a header, by its lower-case name."""
    for key, value in scope["headers"]:
        if key.lower() == name:
            return value
    return None


def has_any_header(scope: Scope, names: frozenset[bytes]) -> bool:
    """Whether it has one of these lower-case names."""
    return any(key.lower() in names for key, _ in scope["headers"])


def path_below_root(scope: Scope) -> str:
    """The path without the prefix under which the application is mounted."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


def with_path(scope: Scope, path: str) -> Scope:
    """The scope with another path below the prefix under which the application is mounted."""
    if path == path_below_root(scope):
        return scope
    whole = scope.get("root_path", "") + path
    return {**scope, "path": whole, "raw_path": quote(whole).encode()}


def shown_path(scope: Scope) -> str:
    """The path, as an error repeats it."""
    path: str = scope["path"]
    return path if len(path) <= MAX_SHOWN_CHARS else f"{path[:MAX_SHOWN_CHARS]}..."


def speaks_anthropic(scope: Scope) -> bool:
    """Whether the client reads errors in Anthropic's form: by the route, or by a header that
    Anthropic's clients send to every route."""
    below_v1 = path_below_root(scope).startswith("/v1/messages")
    return below_v1 or header(scope, b"anthropic-version") is not None


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
