"""The headers by which replicas speak to each other, and who is believed to be one.

A replica marks what it forwards with a keyed hash of the request's id. The key is the cluster's: it
comes over Ray, where no client has access. Headers without a true mark are taken off the request,
so that a client that writes them gets what it would get without.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from starlette.types import Scope

from serve_app.api.messages import header

RELAYED_HEADER = b"x-tierserve-relayed"
BORROWED_HEADER = b"x-tierserve-borrowed-by"
# What the borrower's rules say of the answer and its body does not.
PLAN_HEADER = b"x-tierserve-plan"
INTERNAL_HEADERS = frozenset({RELAYED_HEADER, BORROWED_HEADER, PLAN_HEADER})


@dataclass(frozen=True, slots=True)
class ClusterSecret:
    """The key that all replicas of a cluster share."""

    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def mark(self, request_id: str) -> str:
        """The value of RELAYED_HEADER on a request that this replica forwards."""
        return hmac.new(self.key, b"relayed " + request_id.encode(), hashlib.sha256).hexdigest()

    def cache_salt(self, client: bytes | None) -> str:
        """What keeps a client's prompts apart in the prefix cache, the same on every replica. For a
        client without credentials it is new each time."""
        if client is None:
            return secrets.token_hex(16)
        return hmac.new(self.key, b"salt " + client, hashlib.sha256).hexdigest()

    def take_relayed(self, scope: Scope, request_id: str) -> bool:
        """Whether another replica has forwarded this request. If not, its internal headers are
        taken off the scope."""
        names = {name.lower() for name, _ in scope["headers"]}
        if names.isdisjoint(INTERNAL_HEADERS):
            return False
        mark = header(scope, RELAYED_HEADER) or b""
        if hmac.compare_digest(mark, self.mark(request_id).encode()):
            return True
        scope["headers"] = [
            (name, value)
            for name, value in scope["headers"]
            if name.lower() not in INTERNAL_HEADERS
        ]
        return False
