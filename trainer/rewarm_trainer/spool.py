"""Metrics on their way to the tracking server: an append-only file that survives `kill -9`, and what was delivered.

Decides that a point counts once: its timestamp is frozen when it is made, so sending it again changes nothing; and a
step that is computed again after a resume does not become a second point. Knows nothing about MLflow.

Folder: `points.jsonl`, one line per call: {"t": Unix milliseconds, "s": tokens, "m": {name: value}}; `receipt.json`:
the run's id and how many bytes of `points.jsonl` it acknowledged.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from rewarm_trainer.files import write_json

_HELD_LINES = 10_000  # kept in memory while the disk refuses


class Point(NamedTuple):
    """One value of one metric. step: tokens; timestamp: Unix milliseconds, frozen when the point was made."""

    name: str
    value: float
    step: int
    timestamp: int


class Batch(NamedTuple):
    """Points to send together, and the position that they reach once delivered."""

    points: tuple[Point, ...]
    end: int


@dataclass(frozen=True)
class Receipt:
    """What the tracking server has: `acknowledged` bytes of the spool are in the run `run_id`."""

    run_id: str | None = None
    acknowledged: int = 0


class Spool:
    """Points of one run, in order. One process appends (the work folder is locked), one thread reads.

    once: names of measured rates, which differ when a step is computed again: their first value stays. A repeated
    point of any other name is dropped when it says the same, and kept when it says something else (a rollback trains
    other rows).
    """

    def __init__(self, folder: Path, *, once: Collection[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._receipt_path = folder / "receipt.json"
        self._once = frozenset(once)
        self._lock = Lock()
        self._seen: dict[tuple[str, int], float] = {}
        self._held: deque[bytes] = deque(maxlen=_HELD_LINES)
        self._file = os.open(folder / "points.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = self._recover()
        self._receipt = self._load_receipt()

    def _recover(self) -> int:
        """Cut off the last line if a killed writer tore it; remember every point that is here."""
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)
        for point in _points(data[:whole]):
            self._seen[point.name, point.step] = point.value
        return whole

    def _load_receipt(self) -> Receipt:
        try:
            value = json.loads(self._receipt_path.read_bytes())
            receipt = Receipt(value["run_id"], value["acknowledged"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return Receipt()
        # A spool shorter than its receipt was replaced: send what is here, the server knows repeats.
        return receipt if 0 <= receipt.acknowledged <= self._size else Receipt(receipt.run_id, 0)

    def append(self, metrics: Mapping[str, float], tokens: int, timestamp: int) -> bool:
        """Keep what is new and finite in `metrics`. Never raises: while the disk refuses, memory holds the newest.

        Returns whether everything is on the disk.
        """
        with self._lock:
            fresh = {}
            for name, value in metrics.items():
                number = float(value)
                if math.isfinite(number) and not self._repeats(name, tokens, number):
                    fresh[name] = self._seen[name, tokens] = number
            if fresh:
                record = {"t": timestamp, "s": tokens, "m": fresh}
                self._held.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")
            return self._write_held()

    def _repeats(self, name: str, tokens: int, value: float) -> bool:
        known = self._seen.get((name, tokens))
        return known is not None and (name in self._once or known == value)

    def _write_held(self) -> bool:
        """Everything that memory holds, to the file; a line is there whole or not at all."""
        while self._held:
            line = self._held[0]
            try:
                written = os.write(self._file, line)
                if written < len(line):
                    os.ftruncate(self._file, self._size)
                    return False
            except OSError:
                return False
            self._size += written
            self._held.popleft()
        return True

    def read(self, limit: int) -> Batch:
        """The oldest points that were not acknowledged: whole lines, at least one, until `limit` points are reached."""
        start = self._receipt.acknowledged
        with self._lock:
            end = self._size
        points: list[Point] = []
        position = start
        data = os.pread(self._file, min(end - start, 256 * limit), start)
        if b"\n" not in data:  # one line longer than the usual share
            data = os.pread(self._file, end - start, start)
        for line in data.splitlines(keepends=True):
            if len(points) >= limit or not line.endswith(b"\n"):
                break
            points.extend(_points(line))
            position += len(line)
        return Batch(tuple(points), position)

    def acknowledge(self, end: int) -> None:
        """Everything before `end` has arrived."""
        self._remember(Receipt(self._receipt.run_id, end))

    def delivered(self) -> list[Point]:
        """Acknowledged points of the metric that has the most of them."""
        points = _points(os.pread(self._file, self._receipt.acknowledged, 0))
        names = Counter(point.name for point in points)
        return [point for point in points if point.name == names.most_common(1)[0][0]]

    def belongs_to(self, run_id: str) -> None:
        """The run that takes the points. Another one than before has none of them yet."""
        if run_id != self._receipt.run_id:
            self._remember(Receipt(run_id, 0))

    def _remember(self, receipt: Receipt) -> None:
        self._receipt = receipt
        write_json(self._receipt_path, asdict(receipt))

    @property
    def run_id(self) -> str | None:
        return self._receipt.run_id

    @property
    def pending(self) -> int:
        """How many points wait."""
        with self._lock:
            data = b"".join(self._held)
            start = self._receipt.acknowledged
            if start < self._size:
                data = os.pread(self._file, self._size - start, start) + data
        return len(_points(data))

    @property
    def drained(self) -> bool:
        """Nothing in the file waits."""
        with self._lock:
            return self._receipt.acknowledged >= self._size

    @property
    def empty(self) -> bool:
        """Nothing waits, in the file or in memory."""
        with self._lock:
            return not self._held and self._receipt.acknowledged >= self._size

    def sync(self) -> None:
        """Make what is here survive a power cut too, as far as the disk allows."""
        with self._lock:
            self._write_held()
        os.fsync(self._file)

    def close(self) -> None:
        """No more writing: what is appended later stays in memory and is lost with it."""
        with self._lock:
            descriptor, self._file = self._file, -1  # its number may soon belong to another file
        os.close(descriptor)


def _points(data: bytes) -> list[Point]:
    points: list[Point] = []
    for line in data.splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
            time, step, metrics = record["t"], record["s"], record["m"].items()
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        points.extend(Point(name, value, step, time) for name, value in metrics)
    return points
