"""Prometheus' own tool on the configuration and the rules: each alert fires and clears."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.monitoring.binaries import prometheus_binary
from deploy.monitoring.rules import HERE, RULE_FILES, rules, shortened

UNIT_TESTS = Path(__file__).parents[2] / "monitoring" / "rules"
ALERTS = RULE_FILES[1]
# Each changes one alert into one that would leave an operator in the dark, or wake one for nothing.
MUTANTS = {
    "metrics missing: absent page forgotten": ('or absent(up{job="tierserve"})', ""),
    "metrics missing: empty page forgotten": (
        'or (up{job="tierserve"} == 1 unless on (job, instance) tierserve_replicas_reporting)',
        "",
    ),
    "tier down: zero on purpose": (
        "unless min_over_time(tierserve_scaling_target_replicas[15m]) == 0",
        "",
    ),
    "tier down: zero on purpose, for long": (
        "tierserve_replicas_reporting == 0 unless tierserve_scaling_target_replicas == 0",
        "tierserve_replicas_reporting == 0",
    ),
    "tier down: unknown target": (
        "tierserve_replicas_reporting == 0 unless tierserve_scaling_target_replicas == 0",
        "tierserve_replicas_reporting == 0 and tierserve_scaling_target_replicas > 0",
    ),
    "tier down: one missed scrape": (
        "for: 1m\n        labels: {severity: page, case: lost}",
        "labels: {severity: page, case: lost}",
    ),
    "refusing: few requests": ('{status="429"}[1h])) >= 10', '{status="429"}[1h])) >= 0'),
    "refusing: the short window": (
        "and tier:tierserve_requests_refused:ratio_rate5m > 14.4 * 0.01",
        "",
    ),
    "refusing: the long window": (
        "and tier:tierserve_requests_refused:ratio_rate30m > 6 * 0.01",
        "",
    ),
    "failing: few requests": ('{status=~"5.."}[6h])) >= 10', '{status=~"5.."}[6h])) >= 0'),
    "failing: 503 forgotten": ('status=~"5.."', 'status="500"'),
    "slow: few streams": (
        "and sum without (replica) (increase(tierserve_ttft_seconds_count[1h])) >= 10",
        "",
    ),
    "saturated: a replica on its way": (
        "and tierserve_replicas_reporting >= tierserve_scaling_target_replicas",
        "",
    ),
    "saturated: short bursts": (
        "for: 10m\n        labels: {severity: ticket}\n        annotations:\n"
        '          summary: "{{ $labels.tier }} has had a line',
        "labels: {severity: ticket}\n        annotations:\n"
        '          summary: "{{ $labels.tier }} has had a line',
    ),
    "preemptions: now and then": ("increase10m > 10", "increase10m > 0"),
    "scaling stopped: no decision at all": (
        "or (tierserve_replicas_reporting unless tierserve_scaling_decided_timestamp_seconds)",
        "",
    ),
    "settings: the first replica only": (
        "max without (replica) (tierserve_settings_invalid) == 1",
        "min without (replica) (tierserve_settings_invalid) == 1",
    ),
    "ledger: all replicas only": (
        "min without (replica) (tierserve_ledger_up) == 0",
        "max without (replica) (tierserve_ledger_up) == 0",
    ),
    "ledger: one missed report": (
        "for: 1m\n        labels: {severity: page}\n        annotations:\n"
        '          summary: "The ledger',
        'labels: {severity: page}\n        annotations:\n          summary: "The ledger',
    ),
    "key's day: half of it": ("used_ratio > 0.9", "used_ratio > 0.4"),
}
ALERT_OF = {
    "metrics missing": "TierserveMetricsMissing",
    "tier down": "TierserveTierDown",
    "refusing": "TierserveRefusing",
    "failing": "TierserveFailing",
    "slow": "TierserveSlowFirstToken",
    "saturated": "TierserveTierSaturated",
    "preemptions": "TierserveKVCachePressure",
    "scaling stopped": "TierserveScalingStopped",
    "settings": "TierserveSettingsRefused",
    "ledger": "TierserveLedgerAway",
    "key's day": "TierserveKeyNearItsDay",
}


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [prometheus_binary("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_configuration_and_rules_are_valid() -> None:
    checked = promtool("check", "config", HERE / "prometheus.yml")
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules('alert'))} rules found" in checked.stdout


def test_shortened_rules_are_valid(tmp_path: Path) -> None:
    for file in RULE_FILES:
        (tmp_path / file.name).write_text(shortened(file.read_text(), 15))
        checked = promtool("check", "rules", tmp_path / file.name)
        assert checked.returncode == 0, checked.stderr


def test_alerts_fire_and_clear() -> None:
    tested = promtool("test", "rules", *sorted(UNIT_TESTS.glob("*.yaml")))
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout.count("SUCCESS") == len(list(UNIT_TESTS.glob("*.yaml")))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_spoilt_alert_is_found(name: str, tmp_path: Path) -> None:
    was, becomes = MUTANTS[name]
    source, text = ALERTS.read_text(), spaced(was)
    assert re.search(text, source), "the rule has changed: change the mutant"
    spoilt = re.sub(text, lambda _: becomes, source)
    assert fails(tmp_path, spoilt, about=ALERT_OF[name.split(":")[0]])


def spaced(text: str) -> str:
    """A pattern that takes any white space for a space or line break."""
    return r"\s+".join(re.escape(word) for word in text.split())


def fails(folder: Path, alerts: str, *, about: str) -> bool:
    """Whether the unit tests that name the alert do, with these alerts."""
    at = folder / "deploy" / "monitoring" / "rules"
    at.mkdir(parents=True)
    shutil.copy(RULE_FILES[0], at)
    (at / ALERTS.name).write_text(alerts)
    tests = Path(shutil.copytree(UNIT_TESTS, folder / "tests" / "monitoring" / "rules"))
    named = re.compile(f'alertname(: |="){about}')
    naming = [file for file in sorted(tests.iterdir()) if named.search(file.read_text())]
    assert promtool("check", "rules", at / ALERTS.name).returncode == 0, (
        "the mutant is no rule file"
    )
    return promtool("test", "rules", *naming).returncode != 0
