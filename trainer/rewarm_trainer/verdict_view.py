"""The verdict of a report as tables for a terminal: the same facts as `report.json`, none of its own.

Decides only words, signs and colours. Shared by the end of a run (standard error) and `rewarm report` (standard
output).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rewarm_trainer import benchmark_view

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_VERDICT_STYLE = {"Win": "bold green", "Lose": "bold red", "Tie": "yellow"}
_RESULT_STYLE = {"Pass": "green", "Fail": "red", "Inconclusive": "yellow"}


def signed(value: float | None, digits: int = 3) -> str:
    """`+0.012`, or a dash where there is no number."""
    return "–" if value is None else f"{value:+.{digits}f}"


def interval(delta: Mapping[str, Any] | None) -> str:
    """`-0.290 [-0.310, -0.270]`, or a dash."""
    if not delta or delta.get("mean") is None:
        return "–"
    if delta.get("low") is None or delta.get("high") is None:
        return signed(delta["mean"])
    return f"{signed(delta['mean'])} [{signed(delta['low'])}, {signed(delta['high'])}]"


def report_view(report: Mapping[str, Any]) -> list[RenderableType]:
    """Tables and lines of one report, to be printed one after another."""
    from rich.text import Text

    parts: list[RenderableType] = [_sets(report)]
    forgetting, gain = report["forgetting"], report["gain"]
    parts.append(
        Text(
            f"forgetting {signed(forgetting['max'])} at most, {signed(forgetting['mean'])} on average; "
            f"gain {signed(gain['mean'])} (nats per token)"
        )
    )
    parts += _breakdowns(report)
    if report.get("chain"):
        parts.append(Text(_chain(report["chain"])))
    if report.get("benchmarks"):
        title = "Benchmarks: right answers, by item"
        parts.append(benchmark_table(report["benchmarks"], title, report.get("serving")))
        parts.append(Text(f"tasks: {benchmark_view.count(report['benchmarks'])}"))
    if report["gates"]:
        parts.append(_gates(report))
    promotion = report["promotion"]
    reason = f": {promotion['reason']}" if promotion.get("reason") else ""
    parts.append(Text(f"{'promoted' if promotion['promoted'] else 'not promoted'}{reason}"))
    parts.append(Text(_account(report)))
    parts.extend(Text(f"note: {remark}") for remark in report.get("remarks", ()))
    parts.extend(Text(f"warning: {warning}", style="yellow") for warning in report.get("warnings", ()))
    if report["outcome"] != "Succeeded":
        message = report.get("message") or "the run did not finish"
        parts.append(Text(f"{report['outcome']}: {message}", style="bold red"))
    return parts


def _plain_table(title: str, columns: tuple[str, ...], words: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < words else "right", overflow="fold")
    return table


def _sets(report: Mapping[str, Any]) -> Table:
    from rich.text import Text

    columns = (
        "set",
        "role",
        "documents",
        "baseline",
        "final",
        "bits per byte",
        "delta [95 %]",
        "stability gap",
        "verdict",
    )
    table = _plain_table(f"{report['run']['name']}: loss in nats per token", columns, words=2)
    for name, item in report["sets"].items():
        verdict = item["verdict"] or "–"
        table.add_row(
            Text(name),
            Text(item["role"]),
            str(item["documents"]),
            _loss(item["baseline"]),
            _loss(item["final"]),
            _loss(item["final"] if item["final"]["loss"] is not None else item["baseline"], "bits_per_byte"),
            interval(item["delta"]),
            _gap(item["stability_gap"]),
            Text(verdict, style=_VERDICT_STYLE.get(verdict, "")),
        )
    return table


def _breakdowns(report: Mapping[str, Any]) -> list[RenderableType]:
    """A table for each column by which a set was broken down."""
    from rich.text import Text

    tables: list[RenderableType] = []
    for name, item in report["sets"].items():
        for column, groups in (item.get("breakdown") or {}).items():
            heads = (column, "documents", "bits per byte", "delta [95 %]", "verdict")
            table = _plain_table(f"{name} by {column}", heads, words=1)
            for value, group in groups.items():
                verdict = group["verdict"] or "–"
                table.add_row(
                    Text(value or "none given"),
                    str(group["documents"]),
                    _loss(group["final"], "bits_per_byte"),
                    interval(group["delta"]),
                    Text(verdict, style=_VERDICT_STYLE.get(verdict, "")),
                )
            tables.append(table)
    return tables


def _chain(chain: Mapping[str, Any]) -> str:
    stages = " > ".join(stage["name"] for stage in chain["stages"])
    return (
        f"chain {stages}: backward transfer {signed(chain['backwardTransfer'])}, forgetting "
        f"{signed(chain['forgetting'])}, from best {signed(chain['forgettingFromBest'])} (nats per token)"
    )


def _loss(value: Mapping[str, Any], name: str = "loss") -> str:
    found = value.get(name)
    return "–" if found is None else f"{found:.4f}"


def _gap(gap: Mapping[str, Any]) -> str:
    return "none" if gap["depth"] == 0 else signed(gap["depth"])


def _gates(report: Mapping[str, Any]) -> Table:
    from rich.text import Text

    table = _plain_table("Gates", ("gate", "limit", "value", "result"), words=1)
    for gate in report["gates"]:
        result = Text(gate["result"], style=_RESULT_STYLE.get(gate["result"], ""))
        table.add_row(Text(gate["name"]), f"{gate['limit']:g}", signed(gate["value"]), result)
    return table


def benchmark_table(benchmarks: Mapping[str, Any], title: str, serving: Mapping[str, Any] | None = None) -> Table:
    """A row for each task; `lost` are items that only the first model had right."""
    from rich.text import Text

    table = _plain_table(title, benchmark_view.COLUMNS, words=2)
    for row in benchmark_view.rows(benchmarks, serving):
        verdict = Text(row["verdict"], style=_VERDICT_STYLE.get(row["verdict"], ""))
        table.add_row(*(Text(row[name]) for name in benchmark_view.COLUMNS[:-1]), verdict)
    return table


def _account(report: Mapping[str, Any]) -> str:
    tokens, replay, throughput = report["tokens"], report["replay"], report["throughput"]
    rate = throughput["tokens_per_second"]
    parts = [
        f"{tokens['trained']} tokens trained ({tokens['requested']} asked)",
        f"replay {replay['realized']:.2%} ({replay['requested']:.2%} asked)",
    ]
    if rate:
        parts.append(f"{rate:,.0f} tokens/s")
    if len(report["attempts"]) > 1:
        again = sum(attempt["tokens_recomputed"] for attempt in report["attempts"])
        parts.append(f"{len(report['attempts'])} attempts, {again} tokens trained again")
    return "; ".join(parts)
