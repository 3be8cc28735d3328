"""Web pages as clients: what a browser asks before it sends their request, and what it shows them.

It stands before everything else, so that a page reads errors too. Off, nothing is said to browsers.
"""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

METHODS = ("GET", "POST")
# Of an answer's headers, those that a page may read besides the few that it always may.
EXPOSED_HEADERS = (
    "retry-after",
    "x-request-id",
    "x-tierserve-cache",
    "x-tierserve-thought",
    "x-tierserve-warning",
)
PREFLIGHT_AGE_S = 600


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application for pages of these origins, `*` for any. Every header that a page wants to
    send may be sent: the openai SDK has a dozen of its own. Cookies are not asked for: keys come in
    headers."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=("*",),
        # A service on a private address, which is most of them, to a page of a public one.
        allow_private_network=True,
        expose_headers=EXPOSED_HEADERS,
        max_age=PREFLIGHT_AGE_S,
    )
