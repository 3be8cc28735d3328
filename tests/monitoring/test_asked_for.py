"""Rules and dashboards ask only for what a running application has, and for what is recorded."""

import re

import pytest

from deploy.monitoring.names import GPU_NAMES, kept_of_ray, recorded_names
from deploy.monitoring.rules import (
    HERE,
    OF_PROMETHEUS,
    expressions,
    filled_in,
    rules,
    selected,
    shortened,
)
from serve_app.telemetry import TTFT_BUCKETS_S

# Prometheus puts them on each series.
OF_TARGET = {"job", "instance"}
RECORDED = {rule["record"] for rule in rules("record")}


def unknown_in(expr: str) -> list[str]:
    """What the expression selects and no live page or recording rule has."""
    live, missing = recorded_names(), list[str]()
    for asked in selected(expr):
        if asked.metric in RECORDED | OF_PROMETHEUS:
            continue
        if asked.metric not in live:
            missing.append(asked.metric)
            continue
        missing += [
            f"{asked.metric}{{{label}}}"
            for label in asked.labels - OF_TARGET
            if label not in live[asked.metric]
        ]
    return missing


def test_every_metric_and_label_that_is_asked_for_was_on_a_live_page() -> None:
    unknown = [(place, missing) for place, expr in expressions() for missing in unknown_in(expr)]
    assert unknown == []


@pytest.mark.parametrize(
    ("expr", "unknown"),
    [
        ("rate(tierserve_request_total[5m])", ["tierserve_request_total"]),
        ("tier:tierserve_queue:sum > 0", ["tier:tierserve_queue:sum"]),
        ('tierserve_refused_total{code="x"}', ["tierserve_refused_total{code}"]),
    ],
)
def test_a_name_that_nothing_has_is_found(expr: str, unknown: list[str]) -> None:
    assert unknown_in(expr) == unknown


def test_what_is_no_promql_is_refused() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        selected("sum by (tier (x)")


def test_every_recorded_series_is_used() -> None:
    used = {
        asked.metric
        for place, expr in expressions()
        if not place.startswith("record ")
        for asked in selected(expr)
    }
    assert RECORDED - used == set()


def test_the_bounds_of_the_promised_first_token_are_buckets() -> None:
    text = (HERE / "rules" / "recording.yaml").read_text()
    bounds = {float(bound) for bound in re.findall(r'le="([\d.]+)"', text)}
    assert bounds == {2.5, 10.0}
    assert bounds <= set(TTFT_BUCKETS_S)


def test_the_scrape_keeps_each_of_rays_metrics_that_is_shown() -> None:
    shown = {
        asked.metric
        for _, expr in expressions()
        for asked in selected(expr)
        if asked.metric.startswith("ray_")
    }
    assert set(GPU_NAMES) <= shown
    assert {name for name in shown if not re.fullmatch(kept_of_ray(), name)} == set()


def test_a_dashboards_variables_stand_for_everything() -> None:
    asked = 'rate(x{tier=~"$tier",instance=~"$instance"}[$__rate_interval])'
    assert filled_in(asked) == 'rate(x{tier=~".*",instance=~".*"}[1m])'
    assert filled_in("increase(x[$__range])", "2m") == "increase(x[2m])"


def test_shortened_rules_have_shorter_times_and_the_same_names() -> None:
    text = "record: tier:x:rate5m\nexpr: rate(x[5m] offset 1h) > 60 and y[30m:1m]\nfor: 10m"
    short = "record: tier:x:rate5m\nexpr: rate(x[10s] offset 120s) > 60 and y[60s:2s]\nfor: 20s"
    assert shortened(text, 30) == short
    assert shortened("for: 1s", 30) == "for: 1s"
