"""How our panels and variables look: one way to make each, so that dashboards only say what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "rewarm"
NATS = "suffix: nats"
"""Nats per token; Grafana's name of a unit of one's own."""


@dataclass(frozen=True)
class Query:
    """One expression, and what its lines are called. `instant`: only the newest value."""

    expression: str
    legend: str = ""
    instant: bool = False


def variable_datasource() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def variable(name: str, query: str, *, everything: bool = False) -> dashboard.QueryVariable:
    """A choice made of label values. `everything`: many at once, and all at first."""
    made = (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(everything)
        .include_all(everything)
    )
    return made.all_value(".*") if everything else made


def targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    made = []
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().datasource(DATASOURCE).ref_id(letter).expr(query.expression)
        if query.legend:
            target = target.legend_format(query.legend)
        made.append(target.instant() if query.instant else target.range())
    return made


def lines(title: str, description: str, unit: str, *queries: Query, width: int = 12) -> timeseries.Panel:
    """Lines over time. Those whose name ends in `base`, `budget`, `asked` or `plan` are dashed."""
    return (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .targets(targets(queries))
        .line_width(2)
        .fill_opacity(0)
        .show_points(common_model.VisibilityMode.AUTO)
        .span_nulls(True)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_model.LegendDisplayMode.TABLE)
            .placement(common_model.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI))
        .override_by_regexp(
            "/(base|budget|asked|plan)$/",
            [
                model.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 8]}),
                model.DynamicConfigValue("custom.lineWidth", 1),
                model.DynamicConfigValue("custom.showPoints", "never"),
            ],
        )
    )


def stacked(title: str, description: str, unit: str, *queries: Query, width: int = 12) -> timeseries.Panel:
    """Areas that add up."""
    panel = lines(title, description, unit, *queries, width=width)
    return panel.fill_opacity(40).stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))


def number(title: str, description: str, unit: str, *queries: Query, width: int = 4) -> stat.Panel:
    """The newest value, large."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .targets(targets(queries))
        .no_value("–")
        .color_mode(common_model.BigValueColorMode.VALUE)
        .graph_mode(common_model.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(steps((None, "text")))
    )


def bars(title: str, description: str, unit: str, *queries: Query, width: int = 12) -> bargauge.Panel:
    """One bar for each line's newest value."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .targets(targets(queries))
        .min(0)
        .no_value("–")
        .orientation(common_model.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(steps((None, "blue")))
    )


@dataclass(frozen=True)
class Column:
    """One column of a table: its query (summed by `by`), its name and unit."""

    query: str
    name: str
    unit: str


def grid(title: str, description: str, by: Sequence[str], columns: Sequence[Column], link: str) -> table.Panel:
    """A row for each value of the labels in `by`; the last of them leads to `link`."""
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit("none")
        .span(24)
        .height(10)
        .filterable(True)
    )
    names = {}
    for letter, column in zip("ABCDEFGH", columns, strict=False):
        target = prometheus.Dataquery().datasource(DATASOURCE).ref_id(letter).expr(column.query).instant()
        panel = panel.with_target(target.format(PromQueryFormat.TABLE))
        names[f"Value #{letter}"] = column.name
        panel = panel.override_by_name(column.name, [model.DynamicConfigValue("unit", column.unit)])
    panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True, "Value #Z": True},
                "indexByName": {name: index for index, name in enumerate([*by, *names])},
                "renameByName": names,
            },
        )
    )
    open_run = {"title": "Open the run", "url": link, "targetBlank": False}
    return panel.override_by_name(by[-1], [model.DynamicConfigValue("links", [open_run])])


def steps(*values: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Colours from a value on; the first begins at None."""
    made = [model.Threshold(value=value, color=color) for value, color in values]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def link(title: str, url: str) -> dashboard.DashboardLink:
    """To another dashboard of ours, with what is chosen here."""
    made = dashboard.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url).icon("dashboard")
    return made.keep_time(True).include_vars(True)


Panel = timeseries.Panel | stat.Panel | bargauge.Panel | table.Panel


def assemble(made: dashboard.Dashboard, rows: Sequence[tuple[str, Sequence[Panel]]]) -> model.Dashboard:
    """The dashboard with its rows; panels are numbered in reading order, so that links to them stay right."""
    identity = 0
    for title, panels in rows:
        identity += 1
        made = made.with_row(dashboard.Row(title).id(identity))
        for panel in panels:
            identity += 1
            made = made.with_panel(panel.id(identity))
    return made.build()
