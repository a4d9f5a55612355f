"""Reading `log.jsonl`: the steps, the events and the attempts of a run.

Decides which of several records of one step counts (the last), and what an attempt cost. Never writes.
Lines (design: cli.md, "Work folder"): one per log step, with `step`; one per event, with its kind in `event`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm_api.errors import MissingInputError

ATTEMPT_STARTED = "attempt started"
ATTEMPT_ENDED = "attempt ended"
CHECKPOINT_COMMITTED = "checkpoint committed"
EVALUATION = "evaluation"
PASSED_OVER = "checkpoint passed over"


@dataclass(frozen=True)
class Log:
    """What a run's log says. `steps`: by step number, the last record of each. `events`: all, in order of writing."""

    steps: tuple[dict[str, Any], ...] = ()
    events: tuple[dict[str, Any], ...] = ()

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Every look, by step; of a look that was taken again after a resume, the last."""
        looks = {event["step"]: event for event in self.of_kind(EVALUATION) if isinstance(event.get("step"), int)}
        return [looks[step] for step in sorted(looks)]


@dataclass(frozen=True)
class Attempt:
    """One stretch of training by one set of processes.

    first_step, last_step: numbers of the first and the newest update that the log knows; last_step = first_step - 1
    when it made none. tokens_recomputed: what it trained beyond the checkpoint from which the next attempt resumed.
    """

    number: int
    cause: str
    first_step: int
    last_step: int
    tokens_recomputed: int = 0

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def records(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects among `lines`. A line torn by a killed writer is not one, and is passed over."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def read_records(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a log, in order of writing (MissingInputError, 66, when there is no log)."""
    try:
        with open(path, "rb") as file:
            return list(records(file))
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(
            f"{path}: found no such file, expected the log of a run; give the work folder of a run"
        ) from None


def read_log(path: Path) -> Log:
    """The log of a run, as its readers should see it.

    A resume repeats the steps after its checkpoint: the last record of a step counts. What an earlier attempt logged
    beyond the point where a later one took over is not part of the run, even where nothing has overwritten it yet.
    """
    return arrange(read_records(path))


def arrange(lines: Iterable[Mapping[str, Any]]) -> Log:
    """`read_log` of records that are already in memory."""
    steps: dict[int, dict[str, Any]] = {}
    events: list[dict[str, Any]] = []
    for line in lines:
        if isinstance(line.get("event"), str):
            resumed = line.get("step")
            if line["event"] == ATTEMPT_STARTED and isinstance(resumed, int):
                steps = {number: step for number, step in steps.items() if number <= resumed}
                events = [event for event in events if not _look_beyond(event, resumed)]
            events.append(dict(line))
        elif isinstance(line.get("step"), int):
            steps[line["step"]] = dict(line)
    return Log(tuple(steps[number] for number in sorted(steps)), tuple(events))


def _look_beyond(event: Mapping[str, Any], step: int) -> bool:
    return event["event"] == EVALUATION and isinstance(event.get("step"), int) and event["step"] > step


def attempts_from_log(path: Path, *, last_cause: str = "Unknown") -> list[Attempt]:
    """The attempts of a run, oldest first.

    An attempt that wrote no end was killed: its cause is Unknown. `last_cause` names that of the newest attempt when
    its end is not written yet, because it is the one that asks.
    """
    return derive_attempts(read_records(path), last_cause=last_cause)


@dataclass
class _Open:
    """An attempt while its lines are being read."""

    number: int
    resumed: int | None
    cause: str | None = None
    first_logged: int | None = None
    last_step: int | None = None

    def saw(self, step: int) -> None:
        if self.first_logged is None:
            self.first_logged = step
        self.last_step = step


def derive_attempts(lines: Iterable[Mapping[str, Any]], *, last_cause: str = "Unknown") -> list[Attempt]:
    """`attempts_from_log` of records that are already in memory."""
    attempts: list[_Open] = []
    committed: dict[int, int] = {}  # step: number of the attempt that wrote it first
    tokens = {0: 0}
    for line in lines:
        kind, step = line.get("event"), line.get("step")
        if kind == ATTEMPT_STARTED:
            number = line.get("number")
            resumed = step if isinstance(step, int) else None
            attempts.append(_Open(number if isinstance(number, int) else len(attempts) + 1, resumed))
            continue
        if kind == ATTEMPT_ENDED and attempts:
            attempts[-1].cause = line.get("cause") or "Unknown"
        if not isinstance(step, int):
            continue
        if isinstance(line.get("tokens"), int):
            tokens[step] = line["tokens"]
        if not attempts:
            attempts.append(_Open(1, 0))
        if kind in (None, CHECKPOINT_COMMITTED) and step > 0:
            attempts[-1].saw(step)
        if kind == CHECKPOINT_COMMITTED:
            committed.setdefault(step, len(attempts))
    if attempts and attempts[-1].cause is None:
        attempts[-1].cause = last_cause
    return _closed(attempts, committed, tokens)


def _closed(attempts: list[_Open], committed: Mapping[int, int], tokens: Mapping[int, int]) -> list[Attempt]:
    starts = [_resumed_from(attempt, index, attempts, committed) for index, attempt in enumerate(attempts)]
    closed = []
    for index, attempt in enumerate(attempts):
        last = starts[index] if attempt.last_step is None else max(attempt.last_step, starts[index])
        lost = 0
        if index + 1 < len(attempts):
            lost = max(0, tokens_at(last, tokens) - tokens_at(starts[index + 1], tokens))
        closed.append(Attempt(attempt.number, attempt.cause or "Unknown", starts[index] + 1, last, lost))
    return closed


def _resumed_from(attempt: _Open, index: int, attempts: list[_Open], committed: Mapping[int, int]) -> int:
    """The step an attempt continued from: as it said, or the newest earlier commit below its first logged step."""
    if attempt.resumed is not None:
        return attempt.resumed
    earlier = [step for step, writer in committed.items() if writer <= index]
    if attempt.first_logged is not None:
        earlier = [step for step in earlier if step < attempt.first_logged]
    return max(earlier, default=0)


def tokens_at(step: int, tokens: Mapping[int, int]) -> int:
    """Tokens after `step` updates: as logged, else in proportion to the nearest earlier or later record."""
    if step in tokens:
        return tokens[step]
    known = [number for number in tokens if number > 0]
    if not known:
        return 0
    nearest = min(known, key=lambda number: abs(number - step))
    return round(tokens[nearest] / nearest * step)
