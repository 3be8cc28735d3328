"""The web pages whose scripts a browser lets call the service: one setting of web and each tier."""

import re
from typing import Annotated

from pydantic import AfterValidator

CORS_ORIGINS = (
    "Origins of web pages whose scripts may call this application from a browser, such as "
    "`https://chat.example.com`; `*`: any page. Empty: none. Set it for web and both tiers: "
    "`TIERSERVE_CORS_ORIGINS='[\"https://chat.example.com\"]'` sets all three."
)
ANY = "*"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*?#@]+", re.IGNORECASE)


def _checked(origins: tuple[str, ...]) -> tuple[str, ...]:
    """As browsers write them: without a path, and in lower case."""
    for origin in origins:
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"`{origin}` is no origin: write scheme and host, and the port if it is not the "
                "scheme's own, such as https://chat.example.com, or `*` for any page"
            )
    return tuple(origin.lower() for origin in origins)


Origins = Annotated[tuple[str, ...], AfterValidator(_checked)]
