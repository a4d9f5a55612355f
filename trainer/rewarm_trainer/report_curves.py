"""Which curves a report shows, drawn from the report, the plan and the log.

Pure. Looks between baseline and final score only the first documents of each set, so a set's curve is the full
baseline plus each look's paired difference: one scale, and the band is the interval of that difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewarm_api.pins import Pins
from rewarm_api.snapshot import Group, PlannedPhase, Snapshot
from rewarm_trainer import charts
from rewarm_trainer.charts import Band, Bracket, Chart, Line, Pair, Rule
from rewarm_trainer.findings import signed
from rewarm_trainer.runlog import Attempt, Log

_TABLE_ROWS = 24
_TONES = 6


@dataclass(frozen=True)
class Table:
    """The numbers behind a chart, for those who do not see it: every row, or a regular choice of them."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart with its caption, its legend (tone, label) and its numbers."""

    svg: str
    title: str
    caption: str
    table: Table
    legend: Sequence[tuple[str, str]] = ()


def set_figures(report: Mapping[str, Any]) -> list[Figure]:
    """Loss per evaluation set; where the stability gap is early, its beginning once more, enlarged."""
    figures = []
    for index, (name, value) in enumerate(report["sets"].items()):
        curve = _Curve.of(value)
        if curve is None:
            continue
        chart = _set_chart(f"set-{index}", name, value, curve)
        caption = f"{value['role']} set, {value['documents']:,} documents. {_gap_sentence(value)}"
        figures.append(Figure(charts.svg(chart), f"{name}: loss over training", caption, curve.table()))
        early = _enlarged(value, curve)
        if early:
            part = _set_chart(f"set-{index}-early", name, value, curve, early)
            title = f"{name}: the first {charts.format_quantity(early[1])} tokens"
            what = "The same looks, enlarged: they are dense at the start, where the gap opens."
            figures.append(Figure(charts.svg(part), title, what, curve.table(early[1])))
    return [figure for figure in figures if figure.svg]


@dataclass(frozen=True)
class _Curve:
    """Looks of one set as (tokens, loss) and (tokens, low, high)."""

    baseline: float
    points: Sequence[Pair]
    band: Sequence[tuple[float, float, float]]
    deltas: Sequence[Mapping[str, Any] | None]

    @staticmethod
    def of(value: Mapping[str, Any]) -> _Curve | None:
        baseline = value["baseline"]["loss"]
        if baseline is None or not value["history"]:
            return None
        points, band, deltas = [], [], []
        for look in value["history"]:
            tokens, delta = look["tokens"], look.get("delta")
            if delta and delta["mean"] is not None:
                points.append((tokens, baseline + delta["mean"]))
                if delta["low"] is not None and delta["high"] is not None:
                    band.append((tokens, baseline + delta["low"], baseline + delta["high"]))
            elif tokens == 0:
                points.append((0, baseline))
                band.append((0, baseline, baseline))
            else:
                continue
            deltas.append(delta)
        return _Curve(baseline, points, band, deltas)

    def table(self, end: float | None = None) -> Table:
        rows = []
        for (tokens, loss), delta in zip(self.points, self.deltas, strict=True):
            if end is None or tokens <= end:
                rows.append((f"{tokens:,.0f}", f"{loss:.4f}", _interval(delta)))
        return _shortened(("tokens", "loss, nats per token", "change [95 %]"), rows)


def _interval(delta: Mapping[str, Any] | None) -> str:
    if not delta:
        return "baseline"
    if delta["low"] is None or delta["high"] is None:
        return signed(delta["mean"], 4)
    return f"{signed(delta['mean'], 4)} [{signed(delta['low'], 4)}, {signed(delta['high'], 4)}]"


def _set_chart(key: str, name: str, value: Mapping[str, Any], curve: _Curve, shown: Pair | None = None) -> Chart:
    tone = "tone-new" if value["role"] == "New" else "tone-old"
    gap = value["stability_gap"]
    brackets = []
    if gap["depth"] and gap["peak_tokens"] is not None:
        top = curve.baseline + gap["depth"]
        brackets.append(Bracket(gap["peak_tokens"], curve.baseline, top, f"gap {signed(gap['depth'])}"))
    last = curve.points[-1][1] if curve.points else curve.baseline
    return Chart(
        key=key,
        title=f"Loss on {name} ({value['role']}) over training tokens",
        description=f"From {curve.baseline:.3f} before training to {last:.3f} nats per token. {_gap_sentence(value)}",
        lines=[Line(curve.points, tone, dots=len(curve.points) <= 40)],
        bands=[Band(curve.band, tone)],
        rules=[Rule(curve.baseline, "untouched base")],
        brackets=brackets,
        y_label="nats per token",
        x_range=shown,
    )


def _gap_sentence(value: Mapping[str, Any]) -> str:
    gap = value["stability_gap"]
    if gap["depth"] is None:
        return ""
    if not gap["depth"]:
        return "No stability gap: no look was worse than the base."
    bounds = "" if gap["low"] is None else f" [{signed(gap['low'])}, {signed(gap['high'])}]"
    peak = charts.format_quantity(gap["peak_tokens"])
    if gap["recovered_tokens"] is None:
        after = "not recovered"
    else:
        after = f"recovered by {charts.format_quantity(gap['recovered_tokens'])}"
    return f"Stability gap {signed(gap['depth'])}{bounds} at {peak} tokens, {after}."


def _enlarged(value: Mapping[str, Any], curve: _Curve) -> Pair | None:
    """The beginning that deserves a drawing of its own, where the peak stands in the first tenth of the run."""
    gap = value["stability_gap"]
    if not gap["depth"] or not gap["peak_tokens"]:
        return None
    last = curve.points[-1][0]
    end = max(4 * gap["peak_tokens"], last / 20)
    seen = sum(1 for tokens, _ in curve.points if tokens <= end)
    return (0, end) if seen >= 4 and end <= 0.4 * last else None


def training_figures(
    report: Mapping[str, Any], log: Log, snapshot: Snapshot | None, attempts: Sequence[Attempt]
) -> list[Figure]:
    """Training loss, loss by source, learning rate, replay share and speed, all over tokens."""
    steps = [step for step in log.steps if isinstance(step.get("tokens"), int)]
    if not steps:
        return []
    resumes = _resumes(steps, attempts)
    replay = {source.name for source in snapshot.group(Group.REPLAY)} if snapshot else set()
    figures = [
        _loss_figure(steps, resumes),
        _sources_figure(steps, replay),
        _rate_figure(steps, snapshot),
        _share_figure(steps, report),
        _speed_figure(steps, resumes),
    ]
    return [figure for figure in figures if figure is not None and figure.svg]


def _series(steps: Sequence[Mapping[str, Any]], name: str) -> list[Pair]:
    return [(step["tokens"], step[name]) for step in steps if isinstance(step.get(name), int | float)]


def _resumes(steps: Sequence[Mapping[str, Any]], attempts: Sequence[Attempt]) -> list[float]:
    per_step = steps[-1]["tokens"] / steps[-1]["step"]
    return [(attempt.first_step - 1) * per_step for attempt in attempts[1:]]


def _figure(chart: Chart, caption: str, table: Table, legend: Sequence[tuple[str, str]] = ()) -> Figure:
    return Figure(charts.svg(chart), chart.title, caption, table, legend)


def _smoothed(points: Sequence[Pair], tone: str) -> list[Line]:
    """The values faint, their running mean solid."""
    return [Line(points, tone, "faint"), Line(charts.smooth(points, _span(points)), tone)]


def _span(points: Sequence[Pair]) -> float:
    """What a running mean runs over: a twenty-fifth of the tokens shown."""
    return (points[-1][0] - points[0][0]) / 25


def _loss_figure(steps: Sequence[Mapping[str, Any]], resumes: Sequence[float]) -> Figure | None:
    points = _series(steps, "loss")
    if not points:
        return None
    chart = Chart(
        key="training-loss",
        title="Training loss",
        description=f"From {points[0][1]:.3f} to {points[-1][1]:.3f} nats per token over {len(points)} log steps.",
        lines=_smoothed(points, "tone-plain"),
        borders=resumes,
        y_label="nats per token",
    )
    caption = "Mean over the global batch: faint each log step, solid a running mean."
    return _figure(chart, caption + _resumed(resumes), _table(points, "loss, nats per token", "{:.4f}"))


def _resumed(resumes: Sequence[float]) -> str:
    return " Dotted: where a later attempt took over." if resumes else ""


def _sources_figure(steps: Sequence[Mapping[str, Any]], replay: set[str]) -> Figure | None:
    names = sorted(
        {name for step in steps for name in step.get("losses") or {}}, key=lambda name: (name in replay, name)
    )
    if len(names) < 2:
        return None
    curves = {
        name: [
            (step["tokens"], step["losses"][name])
            for step in steps
            if isinstance((step.get("losses") or {}).get(name), int | float)
        ]
        for name in names
    }
    tones = {name: f"tone-{index % _TONES + 1}" for index, name in enumerate(names)}
    chart = Chart(
        key="source-loss",
        title="Training loss by source",
        description="; ".join(f"{name} ends at {points[-1][1]:.3f}" for name, points in curves.items() if points) + ".",
        lines=[Line(charts.smooth(points, _span(points)), tones[name]) for name, points in curves.items() if points],
        y_label="nats per token",
    )
    rows = [
        [f"{step['tokens']:,}", *(_number((step.get("losses") or {}).get(name), "{:.4f}") for name in names)]
        for step in steps
    ]
    legend = [(tones[name], f"{name} (replay)" if name in replay else name) for name in names]
    return _figure(chart, "Running means.", _shortened(("tokens", *names), rows), legend)


def _rate_figure(steps: Sequence[Mapping[str, Any]], snapshot: Snapshot | None) -> Figure | None:
    points = _series(steps, "learning_rate")
    if not points:
        return None
    plan = snapshot.plan if snapshot else None
    segments = [segment for segment in plan.segments if segment.ends > segment.begins] if plan else []
    kinds = ", ".join(f"{segment.kind.lower()} to {charts.format_quantity(segment.ends)}" for segment in segments)
    highest = max(y for _, y in points)
    chart = Chart(
        key="learning-rate",
        title="Learning rate",
        description=f"Highest {charts.format_rate(highest)}, last {charts.format_rate(points[-1][1])}.",
        lines=[Line(points, "tone-plain")],
        borders=[segment.ends for segment in segments[:-1]],
        y_label="learning rate that each update used",
        from_zero=True,
        format_y=charts.format_rate,
    )
    caption = f"{kinds[:1].upper()}{kinds[1:]} tokens." if kinds else "As each update used it."
    return _figure(chart, caption, _table(points, "learning rate", "{:.4g}"))


def _share_figure(steps: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> Figure | None:
    points = _series(steps, "replay_share")
    asked, realized = report["replay"]["requested"], report["replay"]["realized"]
    if not points or not (asked or realized):
        return None
    chart = Chart(
        key="replay-share",
        title="Replay share, asked and realised",
        description=f"Asked {asked:.2%}, realised {realized:.4%} of all training rows.",
        lines=[Line(points, "tone-old")],
        rules=[Rule(asked, f"asked {charts.format_percent(asked)}")],
        y_label="share of rows so far",
        from_zero=True,
        format_y=charts.format_percent,
    )
    caption = f"Realised over the whole run: {realized:.3%} of rows."
    return _figure(chart, caption, _table(points, "replay share", "{:.4%}"))


def _speed_figure(steps: Sequence[Mapping[str, Any]], resumes: Sequence[float]) -> Figure | None:
    points = _series(steps, "tokens_per_second")
    if not points:
        return None
    chart = Chart(
        key="speed",
        title="Tokens per second",
        description=f"Between {min(y for _, y in points):,.0f} and {max(y for _, y in points):,.0f}.",
        lines=_smoothed(points, "tone-plain"),
        borders=resumes,
        y_label="tokens per second",
        from_zero=True,
        format_y=charts.format_quantity,
    )
    caption = f"All processes together; median {median(points):,.0f}." + _resumed(resumes)
    return _figure(chart, caption, _table(points, "tokens per second", "{:,.0f}"))


def median(points: Sequence[Pair]) -> float:
    """The median of a series: one slow step must not stand for the run."""
    values = sorted(y for _, y in points)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else "–"


def _table(points: Sequence[Pair], name: str, form: str) -> Table:
    return _shortened(("tokens", name), [(f"{x:,.0f}", form.format(y)) for x, y in points])


def _shortened(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    if len(rows) <= _TABLE_ROWS:
        return Table(head, rows)
    chosen = [rows[index * (len(rows) - 1) // (_TABLE_ROWS - 1)] for index in range(_TABLE_ROWS)]
    return Table(head, chosen, f"{_TABLE_ROWS} of {len(rows)} points; all are in log.jsonl.")


def asked_shares(snapshot: Snapshot, pins: Pins) -> dict[str, float]:
    """Share of all training rows that each source was asked to have in the plan."""
    weights = {
        group: {source.name: pins.sources[source.name].weight for source in snapshot.group(group)} for group in Group
    }
    shares = dict.fromkeys([name for group in weights.values() for name in group], 0.0)
    phases = pins.plan.phases or (PlannedPhase(name="", first_step=0, steps=1, weights=None, ratio=None),)
    whole = sum(phase.steps for phase in phases)
    for phase in phases:
        ratio = snapshot.replay.ratio if phase.ratio is None else phase.ratio
        for group, part in ((Group.CORPUS, 1 - ratio), (Group.REPLAY, ratio)):
            own = {name: weight for name, weight in (phase.weights or {}).items() if name in weights[group]}
            used = own or weights[group]
            total = sum(used.values())
            for name, weight in used.items() if total else ():
                shares[name] += phase.steps / whole * part * weight / total
    return shares
