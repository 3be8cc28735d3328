"""The metrics of all replicas on one page read back as what each of them counted."""

from prometheus_client.parser import text_string_to_metric_families

from serve_app.api.status import merge_metrics
from tests.api.metrics_text import exposition


def test_merged_metrics_read_back_with_counters_and_histograms_by_replica() -> None:
    merged = merge_metrics(
        {("chat", "a"): exposition(2, 0.1), ("chat", "b"): exposition(5, 0.3)}
    ).decode()
    families = {family.name: family for family in text_string_to_metric_families(merged)}
    requests = families["tierserve_requests"]
    assert requests.type == "counter"
    totals = {s.labels["replica"]: s.value for s in requests.samples if s.name.endswith("_total")}
    assert totals == {"a": 2.0, "b": 5.0}
    assert {s.labels["endpoint"] for s in requests.samples} == {"chat.completions"}
    waits = families["tierserve_queue_wait_seconds"]
    assert waits.type == "histogram"
    counts = {s.labels["replica"]: s.value for s in waits.samples if s.name.endswith("_count")}
    assert counts == {"a": 1.0, "b": 1.0}
    buckets = [s for s in waits.samples if s.labels["replica"] == "a" and "le" in s.labels]
    assert [s.value for s in buckets] == sorted(s.value for s in buckets)
    assert buckets[-1].labels["le"] == "+Inf"
    assert families["tierserve_queue_depth"].type == "gauge"
    assert families["tierserve_replica_up"].samples[0].value == 1.0


def test_vllms_metric_names_and_labels_survive_the_merge() -> None:
    text = (
        "# HELP vllm:request_success_total Count\n# TYPE vllm:request_success_total counter\n"
        'vllm:request_success_total{engine="0",finished_reason="stop"} 4.0\n'
    )
    merged = merge_metrics({("chat", "a"): text}).decode()
    assert (
        'vllm:request_success_total{engine="0",finished_reason="stop",replica="a",tier="chat"} 4.0'
        in merged
    )


def test_without_replicas_the_page_is_still_valid() -> None:
    merged = merge_metrics({}).decode()
    assert [f.name for f in text_string_to_metric_families(merged)] == ["tierserve_replica_up"]
