"""Whether requests are traced, and where their spans go: OTLP over HTTP, to a collector.

Whoever serves requests holds a `Tracer` (request_spans.py) or None. Without an endpoint nothing of
OpenTelemetry is imported, and nothing is made for a request.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve_app.api.request_spans import Tracer

log = logging.getLogger(__name__)

TRACES_PATH = "/v1/traces"
HTTP_PROTOCOL = "http/protobuf"
# OpenTelemetry's own variables: the URL for traces, and the base of the URLs of all signals.
TRACES_VARIABLE, BASE_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_PROTOCOL_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
PROTOCOL_VARIABLES = (TRACES_PROTOCOL_VARIABLE, "OTEL_EXPORTER_OTLP_PROTOCOL")


def traces_url(configured: str | None, environment: Mapping[str, str]) -> str | None:
    """Where spans go: the collector of the settings, else that of OpenTelemetry's variables; None
    without any."""
    if configured is None and (url := environment.get(TRACES_VARIABLE)):
        return url
    base = configured or environment.get(BASE_VARIABLE)
    if not base:
        return None
    return base if base.endswith(TRACES_PATH) else base.rstrip("/") + TRACES_PATH


def make_tracer(
    configured: str | None, environment: Mapping[str, str], **resource: str
) -> "Tracer | None":
    """`resource` is what all spans of this process have. None without an endpoint. Where it is set
    but cannot be used, a line in the log says why, and requests are served without spans: what
    observes the service must not stop it."""
    url = traces_url(configured, environment)
    if url is None:
        return None
    if not url.startswith(("http://", "https://")):
        log.error("no tracing: the endpoint is no http:// or https:// URL")
        return None
    for name in PROTOCOL_VARIABLES:
        if (environment.get(name) or HTTP_PROTOCOL) != HTTP_PROTOCOL:
            log.error("no tracing: only http/protobuf is supported", extra={"variable": name})
            return None
    try:
        from serve_app.api.request_spans import Tracer
    except ImportError as error:
        fix = "pip install 'tierserve[tracing]'"
        log.error("no tracing: a package is missing", extra={"error": str(error), "fix": fix})
        return None
    log.info("tracing", extra={"phase": "start", "endpoint": url})
    return Tracer.exporting_to(url, environment, resource)
