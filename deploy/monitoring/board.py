"""What a dashboard is made of: rows of panels, each with its queries."""

from dataclasses import dataclass
from enum import StrEnum

# What the variables of each dashboard select, in the queries of the application's metrics.
SELECTED = 'tier=~"$tier",instance=~"$instance"'


class Source(StrEnum):
    """Where a query's series come from."""

    APPLICATION = "application"
    RAY = "ray"
    # Ray's too, but only of a node with a GPU.
    GPU = "gpu"
    # The application's, but only where API keys are on.
    KEYS = "keys"


# What not every application has.
NOT_EVERYWHERE = {Source.GPU: "needs a GPU", Source.KEYS: "needs API keys"}


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, with Grafana's variables, and the legend of its series."""

    expr: str
    legend: str
    source: Source = Source.APPLICATION


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over time, or with `now` the newest value in large; `unit` is Grafana's name of it.

    `limits` are the values from which the figure is orange, and red.
    """

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str
    now: bool = False
    width: int = 8
    limits: tuple[float, float] | None = None
    none: str | None = None
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """`uid` is also the file's name."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]

    @property
    def queries(self) -> list[Query]:
        return [query for row in self.rows for panel in row.panels for query in panel.queries]
