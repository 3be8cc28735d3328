"""The metrics of all replicas on one page read back as what each of them counted."""

from prometheus_client.parser import text_string_to_metric_families

from serve_app.api.status import Kept, merge_metrics
from serve_app.core.scaling.decision_record import ScalingRecord
from serve_app.core.tiers import Tier
from tests.api.metrics_text import exposition


def test_merged_metrics_read_back_with_counters_and_histograms_by_replica() -> None:
    merged = merge_metrics(
        [Tier.CHAT],
        {("chat", "a"): Kept(exposition(2, 0.1)), ("chat", "b"): Kept(exposition(5, 0.3))},
        {},
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
    merged = merge_metrics([Tier.CHAT], {("chat", "a"): Kept(text)}, {}).decode()
    assert (
        'vllm:request_success_total{engine="0",finished_reason="stop",replica="a",tier="chat"} 4.0'
        in merged
    )


def test_without_replicas_the_page_is_still_valid() -> None:
    merged = merge_metrics([], {}, {}).decode()
    samples = [s for f in text_string_to_metric_families(merged) for s in f.samples]
    assert samples == []


def test_a_scaling_decision_is_on_the_page_with_its_inputs() -> None:
    record = ScalingRecord(1.0, 1, 3, "a burst", {"queue_depth": 7.0}, 2, 1)
    merged = merge_metrics([], {}, {Tier.CHAT: record}).decode()
    for line in (
        'tierserve_scaling_wanted_replicas{tier="chat"} 3.0',
        'tierserve_scaling_target_replicas{tier="chat"} 1.0',
        'tierserve_scaling_input{input="queue_depth",tier="chat"} 7.0',
        'tierserve_scaling_decisions_total{tier="chat"} 2.0',
        'tierserve_scaling_held_total{tier="chat"} 1.0',
    ):
        assert line in merged


def test_a_tier_without_a_replica_is_on_the_page_as_one_with_none() -> None:
    merged = merge_metrics(
        [Tier.CHAT, Tier.REASONING], {("chat", "a"): Kept(exposition(1, 0.1))}, {}
    )
    lines = merged.decode().splitlines()
    assert 'tierserve_replicas_reporting{tier="chat"} 1.0' in lines
    assert 'tierserve_replicas_reporting{tier="reasoning"} 0.0' in lines


def test_a_hold_and_the_time_of_the_newest_decision_are_on_the_page() -> None:
    record = ScalingRecord(1700.0, 1, 1, "missing reports: 1, hold", {}, 0, 1, holding=True)
    lines = merge_metrics([], {}, {Tier.CHAT: record}).decode().splitlines()
    assert 'tierserve_scaling_holding{tier="chat"} 1.0' in lines
    assert 'tierserve_scaling_decided_timestamp_seconds{tier="chat"} 1700.0' in lines


def test_a_late_replicas_last_metrics_stay_on_the_page_with_their_age() -> None:
    texts = {
        ("chat", "a"): Kept(exposition(1, 0.1), age_s=0.2),
        ("chat", "b"): Kept(exposition(5, 0.3), age_s=4.5, stale=True),
    }
    lines = merge_metrics([Tier.CHAT], texts, {}).decode().splitlines()
    assert 'tierserve_replicas_reporting{tier="chat"} 2.0' in lines
    for replica, age in (("a", "0.0"), ("b", "4.5")):
        line = f'tierserve_replica_report_age_seconds{{replica="{replica}",tier="chat"}} {age}'
        assert line in lines
        assert f'tierserve_replica_up{{replica="{replica}",tier="chat"}} 1.0' in lines


def test_what_replicas_and_gateways_both_have_is_one_family() -> None:
    text = "# TYPE tierserve_away_streams gauge\ntierserve_away_streams 2.0\n"
    page = merge_metrics([], {("chat", "r"): Kept(text)}, {}, gateways={"g": Kept(text)}).decode()
    assert page.count("# TYPE tierserve_away_streams gauge") == 1
    for labels in ('gateway="g"', 'replica="r",tier="chat"'):
        assert f"tierserve_away_streams{{{labels}}} 2.0" in page.splitlines()


def test_the_metrics_of_each_gateway_are_on_the_page_under_its_name() -> None:
    text = '# TYPE tierserve_replays counter\ntierserve_replays_total{tier="chat",result="x"} 2.0\n'
    texts = {"g1": Kept(text), "g2": Kept(text)}
    lines = merge_metrics([], {}, {}, gateways=texts).decode().splitlines()
    for gateway in texts:
        assert f'tierserve_replays_total{{gateway="{gateway}",result="x",tier="chat"}} 2.0' in lines
