"""Who a client is, for what must not cross from one client to another."""

import hashlib

from starlette.types import Scope

from serve_app.api.messages import header

# OpenAI's clients say who they are by the first, Anthropic's by the second.
CREDENTIAL_HEADERS = (b"authorization", b"x-api-key")


def client_of(scope: Scope) -> bytes | None:
    """A digest of the credentials that the request carries; None where it carries none."""
    given = [header(scope, name) for name in CREDENTIAL_HEADERS]
    if not any(given):
        return None
    return hashlib.sha256(b"\0".join(value or b"" for value in given)).digest()
