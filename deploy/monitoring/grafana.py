"""The Grafana model of a dashboard, built with Grafana's own types for its JSON."""

import json

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from deploy.monitoring.board import Board, Panel

HEIGHT, STAT_HEIGHT = 8, 5
INTERVALS_ONLY = ("auto", "auto_count", "auto_min")
DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")


def as_json(board: Board) -> str:
    """The dashboard as Grafana provisions it."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["tierserve"])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
        .with_variable(_variable("instance", "Application"))
        .with_variable(_variable("tier", "Tier"))
        .link(
            dashboard.DashboardLink("tierserve")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["tierserve"])
            .keep_time(True)
        )
    )
    for row in board.rows:
        built.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            built.with_panel(_panel(panel))
    return to_json(built.build())


def to_json(model: models.Dashboard) -> str:
    """Without what Grafana's types write into each variable and only an interval's may have."""
    fields = json.loads(json.dumps(model, cls=JSONEncoder))
    for variable in fields["templating"]["list"]:
        for name in INTERVALS_ONLY:
            variable.pop(name)
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"


def _variable(name: str, label: str) -> dashboard.QueryVariable:
    """All values that the application's page has had in the time shown."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(f"label_values(tierserve_replicas_reporting, {name})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    built = _stat(panel) if panel.now else _curves(panel)
    built.title(panel.title).description(panel.description).datasource(DATASOURCE)
    built.unit(panel.unit).span(panel.width).height(STAT_HEIGHT if panel.now else HEIGHT)
    if panel.limits is not None:
        built.thresholds(_limits(*panel.limits))
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
        target.ref_id(chr(ord("A") + number)).datasource(DATASOURCE)
        built.with_target(target.instant() if panel.now else target.range())
    return built


def _stat(panel: Panel) -> stat.Panel:
    """Without data it says so, unless the panel has a word for that."""
    built = stat.Panel().color_mode(common_models.BigValueColorMode.VALUE)
    built.text_mode(common_models.BigValueTextMode.VALUE_AND_NAME)
    built.reduce_options(common.ReduceDataOptions().calcs(["last"]))
    return built.no_value(panel.none or "no data")


def _curves(panel: Panel) -> timeseries.Panel:
    """Gaps stay gaps: a missing value must not look like the last one."""
    built = timeseries.Panel().span_nulls(False).fill_opacity(30 if panel.stacked else 5).min(0)
    built.line_width(1).show_points(common_models.VisibilityMode.AUTO)
    built.legend(
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    built.tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    if panel.stacked:
        built.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if panel.limits is not None:
        style = common_models.GraphThresholdsStyleMode.LINE
        built.thresholds_style(common.GraphThresholdsStyleConfig().mode(style))
    return built


def _limits(orange: float, red: float) -> dashboard.ThresholdsConfig:
    """Where more is better, `orange` is above `red`."""
    steps = (
        [(None, "green"), (orange, "orange"), (red, "red")]
        if orange < red
        else [(None, "red"), (red, "orange"), (orange, "green")]
    )
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )
