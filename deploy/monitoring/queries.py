"""Whether every recorded series and every query of the dashboards has data in a Prometheus."""

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deploy.monitoring.binaries import MonitoringError
from deploy.monitoring.board import Source
from deploy.monitoring.boards import all_boards
from deploy.monitoring.rules import filled_in, rules

REQUEST_LIMIT_S = 20.0
MOST_POINTS = 600


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, and how many series answered it with at least one number (not NaN)."""

    place: str
    expr: str
    source: Source
    series: int


@dataclass(frozen=True, slots=True)
class PrometheusApi:
    """The HTTP interface of a Prometheus at a base URL."""

    url: str

    def get(self, path: str, **parameters: object) -> Any:
        """`data` of the answer. Raises MonitoringError."""
        query = urllib.parse.urlencode({k: str(v) for k, v in parameters.items()})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}{path}?{query}", timeout=REQUEST_LIMIT_S) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            raise MonitoringError(f"Prometheus refuses {parameters}: {error.read()!r}") from error
        except (OSError, ValueError) as error:
            raise MonitoringError(f"No Prometheus answers at {self.url}: {error}") from error

    def values(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """The expression now: labels and value of each series."""
        result = self.get("/api/v1/query", query=expr)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def firing(self) -> set[tuple[str, str, str]]:
        """Alerts that fire now: name, tier ("" where an alert has none) and severity."""
        alerts = self.get("/api/v1/alerts")["alerts"]
        labels = [alert["labels"] for alert in alerts if alert["state"] == "firing"]
        return {(each["alertname"], each.get("tier", ""), each["severity"]) for each in labels}

    def series_with_data(self, expr: str, *, start_s: float, end_s: float) -> int:
        """How many series of the expression have a number between two moments (Unix time)."""
        step_s = max(1.0, (end_s - start_s) / MOST_POINTS)
        # The last step is the end itself, which may be all that a young series has.
        start_s = end_s - step_s * int((end_s - start_s) / step_s)
        found = self.get("/api/v1/query_range", query=expr, start=start_s, end=end_s, step=step_s)
        return sum(
            any(not math.isnan(float(value)) for _, value in series["values"])
            for series in found["result"]
        )


def ask_all(
    api: PrometheusApi, *, start_s: float, end_s: float, rate_interval: str = "1m"
) -> Iterator[Asked]:
    """Every recorded series, and every query of every dashboard, over that time."""
    for name in sorted({rule["record"] for rule in rules("record")}):
        count = api.series_with_data(name, start_s=start_s, end_s=end_s)
        yield Asked("recorded", name, Source.APPLICATION, count)
    for board in all_boards():
        for query in board.queries:
            expr = filled_in(query.expr, rate_interval)
            count = api.series_with_data(expr, start_s=start_s, end_s=end_s)
            yield Asked(board.uid, query.expr, query.source, count)
