"""One screen that tells the story of a run: where it is, what it gained and forgot, what it waits for.

Pure: reads a Run, its Events and the time of day. Decides words, order and colour, never what is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rewarm_api.quantity import format_tokens
from rewarm_api.status import Condition, Progress, SetEvaluation
from rewarm_cli import story
from rewarm_cli.durations import ago, short
from rewarm_cli.records import Run, RunEvent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_EVENTS = 5
_ATTEMPTS = 4
_BAR = 30
_SUMMARY_STYLE = {
    "Succeeded": "bold green", "Failed": "bold red", "Training": "bold cyan", "Evaluating": "bold cyan",
    "Retrying": "bold yellow", "Suspended": "bold yellow",
}  # fmt: skip
_VERDICT_STYLE = {"Win": "green", "Lose": "red", "Tie": "yellow"}
_RESULT_STYLE = {"Pass": "green", "Fail": "red", "Inconclusive": "yellow"}


def status_view(run: Run, events: Sequence[RunEvent], now: datetime) -> list[RenderableType]:
    """Lines and tables, to be printed one after another."""
    from rich.text import Text

    parts: list[RenderableType] = [_headline(run, now)]
    facts = _facts(run, now)
    if facts:
        parts += [Text(""), _grid(facts)]
    if run.status.evaluation:
        parts += [Text(""), _sets(run), *_balance(run)]
    recent = list(events)[-_EVENTS:]
    if recent:
        parts += [Text(""), _events(recent, now)]
    return parts


def one_line(run: Run) -> str:
    """The state in one line, for a log that follows a run."""
    progress = run.status.progress
    parts = [run.summary]
    if progress and progress.target_tokens:
        parts.append(f"{progress.percent} %")
    if run.status.phase and run.status.phase.activity and run.status.phase.activity != run.summary:
        parts.append(run.status.phase.activity)
    waiting = story.waits_for(run)
    if waiting:
        parts.append(f"waits for {waiting}")
    elif run.finished:
        ended = run.condition("Succeeded")
        parts.append(f"{ended.reason}: {ended.message}".rstrip(": ") if ended else "")
    return " · ".join(part for part in parts if part)


def _headline(run: Run, now: datetime) -> RenderableType:
    from rich.text import Text

    words: list[str | tuple[str, str]] = [f"{run.name} ", (run.summary, _SUMMARY_STYLE.get(run.summary, "bold"))]
    current = next((item for item in run.status.attempts if item.cause is None), None)
    if current is not None and not run.finished:
        words.append(f" · attempt {current.number}")
    if run.namespace:
        words.append(f" · namespace {run.namespace}")
    if run.created:
        words.append(f" · {ago(run.created, now)} old")
    return Text.assemble(*words)


Fact = tuple[str, "str | Text"]


def _facts(run: Run, now: datetime) -> list[Fact]:
    facts: list[Fact] = [*_outcome(run), *_waiting(run), *_course(run, now)]
    status = run.status
    if status.replay is not None:
        realized = "" if status.replay.realized is None else f", {100 * status.replay.realized:.4g} % realised"
        facts.append(("replay", f"{100 * status.replay.requested:.4g} % asked{realized}"))
    facts += [("gates" if index == 0 else "", line) for index, line in enumerate(_gates(run))]
    facts += _attempts(run, now)
    if status.checkpoint and status.checkpoint.committed_at:
        age = ago(status.checkpoint.committed_at, now)
        facts.append(("checkpoint", f"step {status.checkpoint.step}, {age} ago · {status.checkpoint.uri}".rstrip(" ·")))
    if status.tracking and (status.tracking.url or status.tracking.run_id):
        facts.append(("tracking", status.tracking.url or f"MLflow run {status.tracking.run_id}"))
    return facts + _model(run)


def _outcome(run: Run) -> list[Fact]:
    from rich.text import Text

    ended = run.condition("Succeeded")
    if ended is None or not run.finished:
        return [("problem", Text(line, style="red")) for line in story.problems(run)]
    words = f"{ended.reason}: {ended.message}".rstrip(": ")
    return [("result", Text(words, style="green" if run.succeeded else "red"))]


def _waiting(run: Run) -> list[Fact]:
    from rich.text import Text

    waiting = story.waits_for(run)
    return [("waits for", Text(waiting, style="yellow"))] if waiting else []


def _course(run: Run, now: datetime) -> list[Fact]:
    progress, phase, facts = run.status.progress, run.status.phase, list[Fact]()
    if progress is not None and progress.target_tokens:
        facts.append(("progress", _bar(progress)))
        facts.append(("", _speed(progress, running=run.truth("Running") == "True" and not run.finished)))
    if phase is not None and phase.activity and not run.finished:
        deadline = ""
        if phase.deadline:
            left = (datetime.fromisoformat(phase.deadline) - now).total_seconds()
            deadline = f", counts as hung in {short(left)}" if left > 0 else ", beyond its deadline"
        name = f" (phase {phase.name})" if phase.name else ""
        facts.append(("doing", phase.activity + name + deadline))
    if run.status.learning_rate is not None:
        facts.append(("learning rate", f"{run.status.learning_rate:.3g}"))
    return facts


def _bar(progress: Progress) -> str:
    full = round(_BAR * min(1.0, progress.tokens / progress.target_tokens))
    of = f"{format_tokens(progress.tokens)} of {format_tokens(progress.target_tokens)} tokens"
    return f"{'█' * full}{'░' * (_BAR - full)} {progress.percent} %  {of}"


def _speed(progress: Progress, *, running: bool) -> str:
    parts = [f"step {progress.step}"]
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if running and progress.eta_seconds:
        parts.append(f"{short(progress.eta_seconds)} left")
    return " · ".join(parts)


def _gates(run: Run) -> list[Text]:
    from rich.text import Text

    lines = [
        Text.assemble(
            f"{gate.name} {_signed(gate.value)}, limit {gate.limit:g}: ",
            (gate.result, _RESULT_STYLE[gate.result]),
        )
        for gate in run.status.gates
    ]
    limits = [(name, value) for name, value in (run.spec.get("gates") or {}).items() if name != "onForgetting"]
    if not lines and limits and not run.finished:
        lines = [Text(f"{name} {value:g}, judged at the end") for name, value in limits]
    return lines


def _attempts(run: Run, now: datetime) -> list[Fact]:
    counts = run.status.counts
    if counts is None or not counts.attempts:
        return []
    failures, disruptions = story.plural(counts.failures, "failure"), story.plural(counts.disruptions, "disruption")
    told = f"{counts.attempts} ({failures}, {disruptions})"
    shown = sorted(run.status.attempts, key=lambda item: item.number)[-_ATTEMPTS:]
    return [
        ("attempts", told),
        *(("", story.attempt_line(item, now)) for item in shown if len(shown) > 1 or item.cause),
    ]


def _model(run: Run) -> list[Fact]:
    promotion, tracking = run.status.promotion, run.status.tracking
    version = tracking.model_version if tracking else ""
    if not version and not (run.finished and promotion):
        return []
    words = f"{run.registered_model} version {version}" if version else "not registered"
    if promotion is not None:
        words += ", promoted" if promotion.promoted else ", not promoted"
        words += f": {promotion.reason}" if promotion.reason else ""
    return [("model", words)]


def _grid(facts: Sequence[Fact]) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, min_width=13)
    grid.add_column(overflow="fold")
    for label, value in facts:
        grid.add_row(label, Text(value) if isinstance(value, str) else value)
    return grid


def _sets(run: Run) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("set", "role"):
        table.add_column(column, overflow="fold")
    for column in ("base", "final" if run.succeeded else "last" if run.finished else "now", "change [95 %]"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for item in run.status.evaluation:
        style = _VERDICT_STYLE.get(item.verdict or "", "")
        if not run.finished and item.verdict == "Lose":
            style = "yellow"
        verdict = Text(item.verdict or "–", style=style)
        table.add_row(item.set, item.role, _loss(item.baseline), _loss(item.latest), _change(item), verdict)
    return table


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _change(item: SetEvaluation) -> str:
    delta = item.delta
    if delta is None:
        return "–"
    if delta.low is None or delta.high is None:
        return _signed(delta.mean)
    return f"{_signed(delta.mean)} [{_signed(delta.low)}, {_signed(delta.high)}]"


def _balance(run: Run) -> list[RenderableType]:
    from rich.text import Text

    forgetting, gain = run.status.forgetting, run.status.gain
    words = []
    if gain is not None and gain.mean is not None:
        words.append(f"gain {_signed(gain.mean)}")
    if forgetting is not None and forgetting.max is not None:
        mean = "" if forgetting.mean is None else f", {_signed(forgetting.mean)} on average"
        words.append(f"forgetting {_signed(forgetting.max)} at most{mean}")
    lines: list[RenderableType] = [Text("; ".join(words) + " (nats per token)")] if words else []
    note = story.early_note(run)
    return [*lines, Text(note, style="cyan")] if note else lines


def _events(events: Sequence[RunEvent], now: datetime) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=13)
    table.add_column(overflow="fold")
    for index, event in enumerate(events):
        times = f" (×{event.count})" if event.count > 1 else ""
        words = Text(f"{ago(event.time, now)} ago{times}  {event.reason}: {event.message}")
        words.stylize("yellow" if event.type == "Warning" else "")
        table.add_row("events" if index == 0 else "", words)
    return table


def events_table(events: Sequence[RunEvent], now: datetime) -> Table:
    """All Events, as `rewarm events` shows them."""
    from rewarm_cli.output import table

    rows = [
        (ago(event.time, now), event.type, event.reason, event.about, str(event.count), event.message)
        for event in events
    ]
    return table("", ("age", "type", "reason", "about", "count", "message"), rows, words=6)


def condition_words(condition: Condition) -> str:
    """`Admitted is False (QuotaExceeded): message`."""
    reason = f" ({condition.reason})" if condition.reason else ""
    return f"{condition.type} is {condition.status}{reason}" + (f": {condition.message}" if condition.message else "")
