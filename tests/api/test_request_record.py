"""What the count of requests shows before the first one."""

from prometheus_client import CollectorRegistry

from serve_app.api.request_record import ALERTED_STATUSES, REFUSALS, count_from_zero
from serve_app.api.routes import GENERATING
from serve_app.telemetry import make_tier_metrics


def test_what_alerts_count_is_there_before_it_happens() -> None:
    registry = CollectorRegistry()
    count_from_zero(make_tier_metrics(registry))
    for endpoint in GENERATING.values():
        for status in ALERTED_STATUSES:
            labels = {"endpoint": endpoint.name, "status": status}
            assert registry.get_sample_value("tierserve_requests_total", labels) == 0
    for reason in REFUSALS:
        assert registry.get_sample_value("tierserve_refused_total", {"reason": reason}) == 0
