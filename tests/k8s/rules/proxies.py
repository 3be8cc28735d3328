"""Rules for what stands between a client and Serve: it waits, and holds nothing back."""

from collections.abc import Iterator

from tests.k8s.manifests import Manifests, duration_s, pod_spec
from tests.k8s.rules.lifetime import longest_stream_s

_TIMEOUTS = ("proxy-read-timeout", "proxy-send-timeout")
_NGINX = "nginx.ingress.kubernetes.io/"


def proxies_wait_for_streams(m: Manifests) -> Iterator[str]:
    """A read timeout below the longest pause ends a stream without an error (trap 7)."""
    stream_s = longest_stream_s(m)
    for rule in (rule for route in m.all("HTTPRoute") for rule in route["spec"]["rules"]):
        for name in ("request", "backendRequest"):
            timeout = rule.get("timeouts", {}).get(name)
            if not _long_enough(timeout, stream_s):
                yield f"HTTPRoute: {name} {timeout}"
    for ingress in m.all("Ingress"):
        notes = ingress["metadata"].get("annotations", {})
        for name in _TIMEOUTS:
            if not _long_enough(notes.get(_NGINX + name), stream_s):
                yield f"Ingress: {name} {notes.get(_NGINX + name)}"
        if notes.get(f"{_NGINX}proxy-buffering") != "off":
            yield "Ingress: proxy-buffering holds events back"


def gke_waits_and_finds_pods_healthy(m: Manifests) -> Iterator[str]:
    """GKE's load balancer ends a request after 30 s, and takes 401 at / for a dead Pod."""
    on_gke = any("cloud.google.com" in str(pod_spec(group)) for group in m.workers)
    if not on_gke or not m.all("HTTPRoute"):
        return
    backends = {
        ref["name"]
        for route in m.all("HTTPRoute")
        for rule in route["spec"]["rules"]
        for ref in rule["backendRefs"]
    }
    for kind in ("GCPBackendPolicy", "HealthCheckPolicy"):
        if {o["spec"]["targetRef"]["name"] for o in m.all(kind)} != backends:
            yield f"no {kind} for {sorted(backends)}"
    for policy in m.all("GCPBackendPolicy"):
        if policy["spec"]["default"].get("timeoutSec", 30) < longest_stream_s(m):
            yield f"timeoutSec {policy['spec']['default'].get('timeoutSec', 30)}"
    for policy in m.all("HealthCheckPolicy"):
        check = policy["spec"]["default"]["config"].get("httpHealthCheck", {})
        if check.get("requestPath") != "/healthz":
            yield f"asks for {check.get('requestPath', '/')} to see whether a Pod is healthy"


def _long_enough(timeout: str | None, stream_s: float) -> bool:
    return timeout is not None and duration_s(timeout) >= stream_s
