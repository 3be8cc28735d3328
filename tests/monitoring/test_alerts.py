"""Each alert says what it is about, and the documentation what to do."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.rules import rules

ROOT = Path(__file__).parents[2]
DOCUMENTATION = (ROOT / "docs" / "monitoring.md").read_text()
UNIT_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
ALERTS = rules("alert")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_is_a_page_or_a_ticket_and_leads_to_its_part_of_the_runbook(
    rule: dict[str, Any],
) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert {"summary", "description", "runbook"} == set(rule["annotations"])
    assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"
    assert f"### {rule['alert']}\n" in DOCUMENTATION


def test_the_runbook_has_no_alert_that_is_gone() -> None:
    documented = set(re.findall(r"^### (Tierserve\w+)$", DOCUMENTATION, re.MULTILINE))
    assert documented == {rule["alert"] for rule in ALERTS}


def test_each_alert_is_seen_to_fire_and_seen_to_be_silent_in_the_unit_tests() -> None:
    seen: dict[str, set[bool]] = {}
    for file in UNIT_TESTS:
        for scene in yaml.safe_load(file.read_text())["tests"]:
            for test in scene.get("alert_rule_test", ()):
                seen.setdefault(test["alertname"], set()).add(bool(test["exp_alerts"]))
    fired = {name for name, outcomes in seen.items() if True in outcomes}
    assert fired == {rule["alert"] for rule in ALERTS}
