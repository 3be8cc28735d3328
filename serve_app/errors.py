"""The error tree of a request: by whose fault it fails, and the status that its client gets.

    RequestError                  any error response; its body is in OpenAI's or Anthropic's form
      the client's fault
        400                       a field or the body is invalid (`invalid`); the code says how. A
                                  journal that cannot be read is the gateway's fault
        401                       no API key, or none that is valid
        403                       the key is not for this tier or route; a header that only another
                                  tier's replicas may send
        404, 405                  no such route, model or response; the route has other methods
        408, 413, 415             the body is late, too large or compressed
      overload: retry after `retry_after_s`
        429                       the queue is full or the wait too long, also for a deadline; the
                                  tokenizer is busy;
                                  the key is over its quota
        503                       too many large bodies at once; the ledger of quotas is away
      the engine or a replica
        502                       the replica that ran it was lost; a tier cannot be reached
        504                       its deadline passed in the queue, or its answer cannot be in time
        503                       the engine has stopped (`engine_stopped`), the replica is
                                  stopping, no replica is ready; no room for a stream that another
                                  one hands over (`no_capacity`), which runs on there
      our bug
        500                       everything else (`internal_error`), logged with its trace
    ClientDisconnectedError       the client closed its connection: no response, logged as 499
      ClientStalledError          the client stopped reading, and its connection is closed

Signals inside a replica become one of these where they are caught: `GateFullError` of api/gate.py
(429 by the edge, unless another replica runs the request), `StructureRefusedError` and
`WorkerDiedError` of engine/grammar/sandbox.py.
"""

import json
from collections.abc import Mapping

_TYPE_OF_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}

# Anthropic's clients choose what to do by these.
_ANTHROPIC_TYPE_OF_STATUS = {
    **_TYPE_OF_STATUS,
    413: "request_too_large",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}

INTERNAL_ERROR = "The server failed on this request; its log has the cause under the request id."


class RequestError(Exception):
    """A request that gets an error response: `status` says by whose fault (see above)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        retryable: bool = True,
    ) -> None:
        """`retryable` False: the openai and anthropic SDKs are told not to retry it."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.retryable = retryable

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """When the client should retry and whether at all, and how it is to authenticate."""
        headers: list[tuple[bytes, bytes]] = []
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        if not self.retryable:
            headers.append((b"x-should-retry", b"false"))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers

    def under_names(self, names: Mapping[str, str]) -> "RequestError":
        """The same error, for a client that wrote fields under names of its own: `names` has them
        by ours."""
        if self.param is None or self.param not in names:
            return self
        message = self.message.replace(f"`{self.param}`", f"`{names[self.param]}`", 1)
        return RequestError(
            self.status,
            message,
            param=names[self.param],
            code=self.code,
            retry_after_s=self.retry_after_s,
            retryable=self.retryable,
        )

    def body(self, *, anthropic: bool = False) -> bytes:
        return error_body(
            self.status, self.message, param=self.param, code=self.code, anthropic=anthropic
        )


class ClientDisconnectedError(Exception):
    """The client closed the connection before its response was complete."""


class ClientStalledError(ClientDisconnectedError):
    """The client read nothing of its response for too long."""


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> RequestError:
    """A 400 that names the field."""
    return RequestError(400, message, param=param, code=code)


def internal_error() -> RequestError:
    """The 500 of a bug; what the client may know of it."""
    return RequestError(500, INTERNAL_ERROR, code="internal_error")


def engine_stopped() -> RequestError:
    """The 503 of a replica whose engine is dead."""
    return RequestError(
        503,
        "The engine that answers here has stopped, and another one is being started. Please retry.",
        code="engine_stopped",
        retry_after_s=5,
    )


def error_body(
    status: int, message: str, *, param: str | None, code: str | None, anthropic: bool = False
) -> bytes:
    """`{"error": {message, type, param, code}}`; Anthropic's clients also want `type` outside."""
    types = _ANTHROPIC_TYPE_OF_STATUS if anthropic else _TYPE_OF_STATUS
    other = "api_error" if anthropic else "server_error"
    error_type = types.get(status, "invalid_request_error" if status < 500 else other)
    body: dict[str, object] = {
        "error": {"message": message, "type": error_type, "param": param, "code": code}
    }
    if anthropic:
        body = {"type": "error", **body}
    return json.dumps(body).encode()
