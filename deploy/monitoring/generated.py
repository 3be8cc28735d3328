"""The files that are made of others, so that each thing is written once."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.monitoring.binaries import ROOT
from deploy.monitoring.boards import all_boards
from deploy.monitoring.grafana import as_json
from deploy.monitoring.rules import HERE, rule_groups

DASHBOARDS = HERE / "dashboards"
PROMETHEUS_RULE = ROOT / "k8s" / "components" / "monitoring" / "prometheusrule.yaml"
_HEAD = """\
# Written by `python -m deploy.monitoring write` from deploy/monitoring/rules; do not edit.
"""


def contents() -> Mapping[Path, str]:
    """Each file and what it must hold."""
    boards = {DASHBOARDS / f"{board.uid}.json": as_json(board) for board in all_boards()}
    return {**boards, PROMETHEUS_RULE: _prometheus_rule()}


def write_all() -> list[Path]:
    """Write them; their paths."""
    for path, text in contents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(contents())


class _Plain(yaml.SafeDumper):
    """Without anchors: what two alerts share is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _prometheus_rule() -> str:
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tierserve", "namespace": "tierserve"},
        "spec": {"groups": [_on_one_line(group) for group in rule_groups()]},
    }
    return _HEAD + yaml.dump(manifest, Dumper=_Plain, sort_keys=False, width=100)


def _on_one_line(group: Mapping[str, Any]) -> dict[str, Any]:
    """Expressions without the source's line breaks."""
    tidied = [{**rule, "expr": re.sub(r"\s+", " ", rule["expr"])} for rule in group["rules"]]
    return {**group, "rules": tidied}
