"""The rule files, and what their expressions and the dashboards' queries ask for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from deploy.monitoring.boards import all_boards

HERE = Path(__file__).parent
RULE_FILES = (HERE / "rules" / "recording.yaml", HERE / "rules" / "alerts.yaml")
# Of every target, by Prometheus itself.
OF_PROMETHEUS = frozenset({"up", "ALERTS"})
# A duration that is no part of a series' name.
_DURATION = re.compile(r"\b\d+[smhd]\b")


@dataclass(frozen=True, slots=True)
class Selected:
    """A metric that an expression selects, and the labels that it matches on."""

    metric: str
    labels: frozenset[str]


def rule_groups() -> list[dict[str, Any]]:
    """The groups of all rule files, recording rules first."""
    return [group for file in RULE_FILES for group in yaml.safe_load(file.read_text())["groups"]]


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules of a kind, `record` or `alert`."""
    return [rule for group in rule_groups() for rule in group["rules"] if kind in rule]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of rules and dashboards, and where it stands."""
    for kind in ("record", "alert"):
        for rule in rules(kind):
            yield f"{kind} {rule[kind]}", rule["expr"]
    for board in all_boards():
        for query in board.queries:
            yield f"dashboard {board.uid}", filled_in(query.expr)


def filled_in(expr: str, rate_interval: str = "1m") -> str:
    """A dashboard's query with all values of Grafana's variables."""
    for name in ("$__rate_interval", "$__range"):
        expr = expr.replace(name, rate_interval)
    return re.sub(r"\$(tier|instance)\b", ".*", expr)


def selected(expr: str) -> list[Selected]:
    """The metrics that an expression selects. Raises ValueError where it is no PromQL."""
    found: list[Selected] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            if node.name is None:
                raise ValueError(f"a selector without a metric's name in {expr}")
            matched = frozenset(matcher.name for matcher in node.matchers.matchers)
            found.append(Selected(node.name, matched))

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def shortened(text: str, times: int) -> str:
    """Rules whose windows and delays are shorter by this factor, to see alerts fire and clear
    within minutes. Names of series keep the length of the real window."""

    def shorter(match: re.Match[str]) -> str:
        whole: timedelta = promql_parser.parse_duration(match[0])
        return f"{max(1, round(whole.total_seconds() / times))}s"

    return _DURATION.sub(shorter, text)
