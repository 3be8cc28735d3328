"""The faults that cross the HTTP boundary, each with a status and a body in OpenAI's form."""

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

FAULT = "The server failed on this request; its log has the cause under the request id."


class RequestError(Exception):
    """A request that gets an error answer: the user's fault (4xx) or overload (429, 503)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def retry_headers(self) -> list[tuple[bytes, bytes]]:
        """Retry-After, where the client should come back."""
        if self.retry_after_s is None:
            return []
        return [(b"retry-after", b"%d" % self.retry_after_s)]

    def under_names(self, names: Mapping[str, str]) -> "RequestError":
        """The same error, for a client who wrote fields under names of its own: `names` has them
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
        )

    def body(self, *, anthropic: bool = False) -> bytes:
        return error_body(
            self.status, self.message, param=self.param, code=self.code, anthropic=anthropic
        )


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> RequestError:
    """A 400 that names the field."""
    return RequestError(400, message, param=param, code=code)


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
