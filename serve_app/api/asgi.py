"""The ASGI layer that the edges and the web application share: error responses, which headers a hop
passes on, and CORS.
"""

from collections.abc import Iterable, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Send

from serve_app.api.request_context import RequestId
from serve_app.errors import RequestError

Headers = Iterable[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {b"connection", b"content-length", b"host", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
# Each server sets these itself, once for a response that goes through several.
SERVERS_OWN = frozenset({b"date", b"server"})
# CORS is handled where the browser asks, and by nothing behind it.
NOT_FORWARDED = HOP_BY_HOP | {b"origin"}
CORS_METHODS = ("GET", "POST")
# Of a response's headers, those that a page may read besides the few that it always may.
EXPOSED_HEADERS = (
    "retry-after",
    "x-request-id",
    "x-tierserve-cache",
    "x-tierserve-replayed",
    "x-tierserve-resumable",
    "x-tierserve-stream-id",
    "x-tierserve-thought",
    "x-tierserve-warning",
)
PREFLIGHT_AGE_S = 600


async def send_error(
    send: Send,
    error: RequestError,
    *,
    request_id: RequestId,
    anthropic: bool = False,
    headers: Headers = (),
) -> None:
    """An error response in OpenAI's or Anthropic's form, with Retry-After where it has one."""
    body = error.body(anthropic=anthropic)
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *request_id.response_headers,
                *error.headers,
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application for pages of these origins, `*` for any; without origins the application as
    it is. It wraps everything else, so that a page reads errors too. Every header that a page wants
    to send may be sent: the openai SDK has a dozen of its own. Cookies are not asked for: keys come
    in headers."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=CORS_METHODS,
        allow_headers=("*",),
        # A service on a private address, which is most of them, to a page of a public one.
        allow_private_network=True,
        expose_headers=EXPOSED_HEADERS,
        max_age=PREFLIGHT_AGE_S,
    )
