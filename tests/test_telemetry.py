"""The histogram of tokens says what the client library's own would."""

from prometheus_client import CollectorRegistry, Histogram

from serve_app.telemetry import ITL_BUCKETS_S, make_tier_metrics

GAPS_S = (0.0, 0.001, 0.0025, 0.003, 0.6, 2.5, 9.0)


def samples(registry: CollectorRegistry, name: str) -> list[tuple[str, dict[str, str], float]]:
    (metric,) = (metric for metric in registry.collect() if metric.name == name)
    found = ((sample.name.removeprefix(name), sample) for sample in metric.samples)
    return [(kind, dict(it.labels), it.value) for kind, it in found if kind != "_created"]


def test_tokens_are_counted_as_the_librarys_histogram_counts_them() -> None:
    registry = CollectorRegistry()
    ours = make_tier_metrics(registry).itl_s
    librarys = Histogram("gap_seconds", "Gaps.", buckets=ITL_BUCKETS_S, registry=registry)
    for gap_s in GAPS_S:
        ours.observe(gap_s)
        librarys.observe(gap_s)
    assert samples(registry, "tierserve_itl_seconds") == samples(registry, "gap_seconds")
