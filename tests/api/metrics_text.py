"""What a replica with some traffic exposes."""

from prometheus_client import CollectorRegistry, generate_latest

from serve_app.telemetry import make_tier_metrics


def exposition(served_requests: int, wait_s: float) -> str:
    registry = CollectorRegistry()
    metrics = make_tier_metrics(registry)
    metrics.requests.labels(endpoint="chat.completions", status="200").inc(served_requests)
    metrics.queue_wait_s.observe(wait_s)
    metrics.queue_depth.set(3)
    return generate_latest(registry).decode()
