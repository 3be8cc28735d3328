"""The dashboards by the types that Grafana publishes, as a JSON schema (grafana_schema/)."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema.exceptions import best_match

from tests.k8s.manifests import REPO

SCHEMA = REPO / ".cache" / "grafana-schema.json"
DASHBOARDS = sorted((REPO / "deploy" / "monitoring" / "dashboards").glob("*.json"))

pytestmark = pytest.mark.skipif(
    not SCHEMA.exists(), reason=f"no {SCHEMA.name} in .cache: `make test-k8s` makes it, with npm"
)


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_grafana_knows_each_field_of_a_dashboard(file: Path) -> None:
    fault = best_match(_validator().iter_errors(json.loads(file.read_text())))
    assert fault is None, f"{fault.json_path}: {fault.message[:300]}"


def _curves(dashboard: Any) -> Any:
    return next(panel for panel in dashboard["panels"] if panel["type"] == "timeseries")


def _newest(dashboard: Any) -> Any:
    return next(panel for panel in dashboard["panels"] if panel["type"] == "stat")


def _custom(dashboard: Any) -> Any:
    return _curves(dashboard)["fieldConfig"]["defaults"]["custom"]


FAULTS: dict[str, Callable[[Any], Any]] = {
    "a field that no dashboard has": lambda d: d.update(style="dark"),
    "a version that is no number": lambda d: d.update(schemaVersion="41"),
    "a variable's field": lambda d: d["templating"]["list"][0].update(auto=False),
    "a variable's kind": lambda d: d["templating"]["list"][0].update(type="metric"),
    "when a variable is read anew": lambda d: d["templating"]["list"][1].update(refresh=7),
    "a link's kind": lambda d: d["links"][0].update(type="boards"),
    "a panel without a kind": lambda d: _curves(d).pop("type"),
    "a kind of panel that we do not use": lambda d: _curves(d).update(type="graph"),
    "a panel's place": lambda d: _curves(d)["gridPos"].update(w="8"),
    "an option of the other kind": lambda d: _curves(d)["options"].update(colorMode="value"),
    "how curves are drawn": lambda d: _custom(d).update(drawStyle="curve"),
    "a curve's misspelt field": lambda d: _custom(d).update(lineWidths=2),
    "a mode of thresholds": lambda d: _custom(d).update(thresholdsStyle={"mode": "lines"}),
    "how values are reduced": lambda d: _newest(d)["options"]["reduceOptions"].update(calcs="last"),
    "curves' fields in a figure": lambda d: _newest(d)["fieldConfig"]["defaults"].update(
        custom={"lineWidth": 1}
    ),
    "a threshold's value": lambda d: _newest(d)["fieldConfig"]["defaults"]["thresholds"]["steps"][
        0
    ].update(value="low"),
    "a query's misspelt field": lambda d: _curves(d)["targets"][0].update(legend="{{tier}}"),
    "a query without an expression": lambda d: _curves(d)["targets"][0].pop("expr"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_seen(name: str) -> None:
    (file,) = (file for file in DASHBOARDS if file.stem == "tierserve-service")
    dashboard = json.loads(file.read_text())
    FAULTS[name](dashboard)
    assert not _validator().is_valid(dashboard)


@cache
def _validator() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
