"""What the gateway reads of a tier's response: what of it is the client's, and whether it says that
the replica was lost."""

import json

from serve_app.api.asgi import HOP_BY_HOP, SERVERS_OWN
from serve_app.api.replay_wire import JOURNAL_HEADER
from serve_app.api.request_context import REQUEST_ID_HEADER
from serve_app.api.upstream import Headers, Upstream

# Of the tier's response, what this application sets itself.
_OWN_HEADERS = HOP_BY_HOP | SERVERS_OWN | {REQUEST_ID_HEADER, JOURNAL_HEADER, b"vary"}
# With these an edge answers for a replica that is lost, and HAProxy for two of them: it has tried
# another one.
TWO_LOST = "bad_gateway"
_LOST_CODES = frozenset({"engine_stopped", "replica_lost", "replica_stopping", TWO_LOST})
# HAProxy's answer where the request's replica is gone and there is no other. At once it means that
# there was none to begin with.
_NO_SERVER, NO_SERVER_AT_ONCE_S = "no_server", 0.25
# Nobody can continue it now. 502: whoever began to is lost too.
NOBODY = frozenset({429, 502, 503})
BAD_GATEWAY = 502


def streams_events(upstream: Upstream) -> bool:
    """Whether it is a stream of server-sent events."""
    return (upstream.header(b"content-type") or b"").startswith(b"text/event-stream")


def forwardable(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Those that the client gets, one by one: a header may come more than once."""
    return [(name, value) for name, value in headers if name not in _OWN_HEADERS]


def lost_by(status: int, body: bytes, ran_s: float) -> str | None:
    """The code of an error response, after so many seconds, that says that the request's replica
    was lost; None for all others, which are the client's."""
    code = _code_in(body) if status in NOBODY else ""
    if code in _LOST_CODES or (code == _NO_SERVER and ran_s > NO_SERVER_AT_ONCE_S):
        return code
    return None


def _code_in(body: bytes) -> str:
    """The code of an error response; "" where it is none of this service's."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, TypeError, KeyError):
        return ""
