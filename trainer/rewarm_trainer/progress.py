"""What a person sees while a run prepares, trains and evaluates. Decides nothing, and writes to one stream only.

On a terminal one live display; in a pipe one plain line per log record, so that a log file stays readable.

    run ──> Progress.create(stream) ──┬─ terminal: LiveProgress   prepare · baseline · start · step · evaluation · event
                                      └─ pipe:     PlainProgress  finish (the verdict) · close
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from rewarm_api.quantity import format_tokens
from rewarm_api.snapshot import Group, Segment, SegmentKind
from rewarm_trainer.verdict_view import interval, report_view, signed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from rewarm_api.snapshot import Plan, Snapshot

# A plain log tells of a long stage about this often.
PLAIN_SECONDS = 10.0
_SMOOTHING = 0.8


class Progress:
    """Says nothing: what every rank but the first uses. The base of the two that speak."""

    @staticmethod
    def create(stream: IO[str]) -> Progress:
        """A live display when `stream` is a terminal that can move its cursor, else plain lines."""
        from rich.console import Console

        console = Console(file=stream, highlight=False)
        if console.is_terminal and not console.is_dumb_terminal:
            return LiveProgress(console)
        return PlainProgress(stream)

    def prepare(self, stage: str, source: str, done: float, total: float | None, unit: str) -> None:
        """A stage of preparation ("scan", "tokenise") of one source: `done` of `total` (None: unknown) in `unit`."""

    def baseline(self, set_name: str, done: int, total: int) -> None:
        """A set is being scored, by the untouched base first and then at every look: `done` of `total` batches."""

    def start(self, snapshot: Snapshot, plan: Plan, step: int = 0) -> None:
        """Training begins, or goes on after `step` updates."""

    def step(self, record: Mapping[str, Any]) -> None:
        """A step record of `log.jsonl`."""

    def evaluation(self, event: Mapping[str, Any]) -> None:
        """An `evaluation` event of `log.jsonl`."""

    def event(self, text: str) -> None:
        """Anything else worth a line: a checkpoint, a warning, a decision."""

    def finish(self, report: Mapping[str, Any]) -> None:
        """The verdict; nothing more is shown after it."""

    def close(self) -> None:
        """Leave the terminal as it was found. Harmless to repeat."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Course:
    """Where training stands, gathered from what it reports."""

    tokens: int = 0
    steps: int = 0
    segments: Sequence[Segment] = ()
    groups: Mapping[str, Group] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    look: Mapping[str, Any] = field(default_factory=dict)
    rate: float | None = None

    def take(self, record: Mapping[str, Any]) -> None:
        self.record = record
        measured = record.get("tokens_per_second")
        if measured:
            self.rate = measured if self.rate is None else _SMOOTHING * self.rate + (1 - _SMOOTHING) * measured

    @property
    def seconds_left(self) -> float | None:
        """By the smoothed training rate; looks and checkpoints come on top."""
        if not self.rate or not self.tokens:
            return None
        return float(max(0, self.tokens - self.record.get("tokens", 0)) / self.rate)

    def group_loss(self, group: Group) -> float | None:
        """Mean training loss over the sources of one group that were in the last batch."""
        losses = self.record.get("losses") or {}
        values = [value for name, value in losses.items() if self.groups.get(name) is group and value is not None]
        return sum(values) / len(values) if values else None

    def message(self) -> str:
        """What a newcomer would worry about, and need not: the loss on old text rises while the rate is re-warmed."""
        tokens = self.record.get("tokens", 0)
        warming = any(
            segment.kind is SegmentKind.WARMUP and segment.begins <= tokens < segment.ends for segment in self.segments
        )
        if warming:
            return "re-warming: a passing rise of the loss on old text is expected here"
        worst = self.look.get("forgetting")
        worst = worst.get("max") if isinstance(worst, Mapping) else worst
        if worst is not None and worst > 0 and self.tokens and self.look.get("tokens", 0) < self.tokens / 4:
            return f"stability gap: old text is {worst:+.3f} nats above the base, common early; it is judged at the end"
        return ""


def duration(seconds: float | None) -> str:
    """`2h03m`, `4m10s` or `12s`; a dash when unknown."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def step_parts(course: Course) -> tuple[list[str], list[str]]:
    """(position, values) of the last step record, in words."""
    record = course.record
    tokens = format_tokens(record.get("tokens", 0))
    position = [
        f"step {record.get('step', 0)}" + (f"/{course.steps}" if course.steps else ""),
        f"{tokens}/{format_tokens(course.tokens)} tokens" if course.tokens else f"{tokens} tokens",
    ]
    if course.rate:
        position += [f"{format_tokens(round(course.rate))} tokens/s", f"{duration(course.seconds_left)} left"]
    values = []
    if record.get("loss") is not None:
        values.append(f"loss {record['loss']:.4f}")
    for word, group in (("new", Group.CORPUS), ("old", Group.REPLAY)):
        loss = course.group_loss(group)
        if loss is not None:
            values.append(f"{word} {loss:.4f}")
    if record.get("learning_rate") is not None:
        values.append(f"learning rate {record['learning_rate']:.3g}")
    if record.get("replay_share"):
        values.append(f"replay {record['replay_share']:.1%}")
    if record.get("gradient_norm") is not None:
        values.append(f"gradient norm {record['gradient_norm']:.2f}")
    return position, values


def look_words(look: Mapping[str, Any]) -> str:
    """One line on a look: delta per set, forgetting, gain; for the baseline, at 0 tokens, its losses."""
    if not look.get("tokens"):
        losses = {name: item.get("loss") for name, item in (look.get("sets") or {}).items()}
        return "baseline: " + "; ".join(f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None)
    parts = [f"{name} {interval(item.get('delta'))}" for name, item in (look.get("sets") or {}).items()]
    for name in ("forgetting", "gain"):
        value = look.get(name)
        number = value.get("max", value.get("mean")) if isinstance(value, Mapping) else value
        if number is not None:
            parts.append(f"{name} {signed(number)}")
    return f"look at {format_tokens(look.get('tokens', 0))} tokens: " + "; ".join(parts)


class PlainProgress(Progress):
    """One line per event, for pipes and log files."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._course = Course()
        self._last: tuple[str, float] = ("", 0.0)
        self._message = ""

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _stage(self, stage: str, done: float, total: float | None, unit: str) -> None:
        """A line when a stage begins, when it ends, and now and then between."""
        name, told = self._last
        now = time.monotonic()
        ended = total is not None and done >= total
        if name == stage and not ended and now - told < PLAIN_SECONDS:
            return
        if name == stage + " done":
            return
        self._last = (stage + " done" if ended else stage, now)
        share = f"{_amount(done, unit)} of {_amount(total, unit)}" if total is not None else _amount(done, unit)
        self._line(f"{stage}: {share} {_word(unit)}")

    def prepare(self, stage: str, source: str, done: float, total: float | None, unit: str) -> None:
        self._stage(f"{stage} {source}", done, total, unit)

    def baseline(self, set_name: str, done: int, total: int) -> None:
        # A look is told once, with its result.
        if not self._course.tokens:
            self._stage(f"baseline {set_name}", done, total, "batches")

    def start(self, snapshot: Snapshot, plan: Plan, step: int = 0) -> None:
        self._course = course_of(snapshot, plan)
        how = f"from step {step}" if step else "from the start"
        self._line(f"training {snapshot.name} {how}: {plan.steps} steps, {format_tokens(plan.tokens)} tokens")

    def step(self, record: Mapping[str, Any]) -> None:
        self._course.take(record)
        position, values = step_parts(self._course)
        self._line(", ".join([*position, *values]))
        message = self._course.message()
        if message and message.partition(":")[0] != self._message:
            self._message = message.partition(":")[0]
            self._line(message)

    def evaluation(self, event: Mapping[str, Any]) -> None:
        self._course.look = event
        self._line(look_words(event))

    def event(self, text: str) -> None:
        self._line(text)

    def finish(self, report: Mapping[str, Any]) -> None:
        from rich.console import Console

        # A pipe has no edge to fold at; whole lines can be searched.
        console = Console(file=self._stream, width=200, highlight=False, no_color=True)
        for part in report_view(report):
            console.print(part, soft_wrap=False)


class LiveProgress(Progress):
    """One display that stays in place; events scroll by above it."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._course = Course()
        self._stages: dict[str, tuple[float, float | None, str, float]] = {}
        self._told = ""  # the stage whose end was told last: its reader may report the end twice
        self._live: Live | None = Live(
            get_renderable=self._render, console=console, refresh_per_second=4, transient=True
        )
        self._live.start()

    def _render(self) -> RenderableType:
        from rich.console import Group as Stack

        # The refreshing thread reads while the run writes: work on a copy.
        lines: list[RenderableType] = [_stage_line(name, *state) for name, state in list(self._stages.items())]
        if self._course.record:
            lines += _training_lines(self._course)
        return Stack(*lines)

    def _stage(self, name: str, done: float, total: float | None, unit: str) -> None:
        started = self._stages[name][3] if name in self._stages else time.monotonic()
        self._stages[name] = (done, total, unit, started)
        if total is not None and done >= total:
            del self._stages[name]
            if self._course.tokens or name == self._told:
                return
            self._told = name
            self.event(f"{name}: {_amount(total, unit)} {_word(unit)} in {duration(time.monotonic() - started)}")

    def prepare(self, stage: str, source: str, done: float, total: float | None, unit: str) -> None:
        self._stage(f"{stage} {source}", done, total, unit)

    def baseline(self, set_name: str, done: int, total: int) -> None:
        self._stage(f"{'look' if self._course.tokens else 'baseline'} {set_name}", done, total, "batches")

    def start(self, snapshot: Snapshot, plan: Plan, step: int = 0) -> None:
        self._stages.clear()
        self._course = course_of(snapshot, plan)
        self._course.record = {"step": step, "tokens": step * plan.tokens_per_step}

    def step(self, record: Mapping[str, Any]) -> None:
        self._course.take(record)

    def evaluation(self, event: Mapping[str, Any]) -> None:
        self._course.look = event

    def event(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(text, style="yellow" if text.startswith("warning") else "dim"))

    def finish(self, report: Mapping[str, Any]) -> None:
        self.close()
        for part in report_view(report):
            self._console.print(part)

    def close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()


def course_of(snapshot: Snapshot, plan: Plan) -> Course:
    """The course of a plan, before its first step."""
    groups = {source.name: source.group for source in snapshot.sources}
    return Course(plan.tokens, plan.steps, plan.segments, groups)


def _training_lines(course: Course) -> list[RenderableType]:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    position, values = step_parts(course)
    bar = Table.grid(padding=(0, 2))
    bar.add_row(ProgressBar(course.tokens or None, course.record.get("tokens", 0), width=24), Text("  ".join(position)))
    lines: list[RenderableType] = [bar]
    if values:
        lines.append(Text("  ".join(values)))
    if course.look:
        lines.append(Text(look_words(course.look), style="cyan"))
    message = course.message()
    if message:
        lines.append(Text(message, style="italic dim"))
    return lines


def _stage_line(name: str, done: float, total: float | None, unit: str, started: float) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    elapsed = max(time.monotonic() - started, 1e-6)
    rate = done / elapsed
    words = [f"{_amount(done, unit)}" + (f"/{_amount(total, unit)}" if total is not None else ""), _word(unit)]
    if done and elapsed > 1:
        words.append(f"{_amount(rate, unit)}/s")
        if total is not None and rate:
            words.append(f"{duration((total - done) / rate)} left")
    row = Table.grid(padding=(0, 2))
    row.add_row(Text(name), ProgressBar(total, done, width=24, pulse=total is None), Text(" ".join(words)))
    return row


def _amount(value: float | None, unit: str) -> str:
    """A count as it is; bytes in millions, tokens shortened."""
    if value is None:
        return "?"
    if unit == "bytes":
        return f"{value / 1e6:,.1f}"
    return format_tokens(round(value)) if unit == "tokens" else f"{value:,.0f}"


def _word(unit: str) -> str:
    return "MB" if unit == "bytes" else unit
