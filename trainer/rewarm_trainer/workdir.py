"""The work folder of a run: where everything is, who may write, and how a file appears whole or not at all.

Decides nothing about training. The folder's own snapshot always wins over start options (design: trainer.md).
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from rewarm_api.errors import DependencyError, ManifestError, Problem
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.files import disk_errors, finite, write_json


class WorkFolder:
    """Paths of one run's folder, and its exclusive lock."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.snapshot = self.root / "snapshot.json"
        self.pins = self.root / "pins.json"
        self.corpora = self.root / "corpora"
        self.tokenizer = self.root / "tokenizer"
        self.checkpoints = self.root / "checkpoints"
        self.state = self.root / "state"
        self.log = self.root / "log.jsonl"
        self.report = self.root / "report.json"
        self.report_html = self.root / "report.html"
        self.heat_map = self.root / "chain.svg"
        self.model_card = self.root / "model-card.md"
        self.mlflow = self.root / "mlflow.db"
        self.manifest = self.state / "manifest.json"
        self._lock: int | None = None

    def lock(self) -> int:
        """Become the only writer (75 when somebody else is). Returns the descriptor that holds the lock.

        The descriptor is inherited by workers, so the folder stays locked for as long as any of them lives.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.state / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DependencyError(
                f"{self.root}: another process is writing this work folder; wait for it, stop it, "
                "or give this run a folder of its own with --workdir"
            ) from None
        os.set_inheritable(descriptor, True)
        self._lock = descriptor
        return descriptor


def write_snapshot(work: WorkFolder, snapshot: Snapshot) -> None:
    """`snapshot.json`, once, with the digest of its content."""
    write_json(work.snapshot, {**snapshot.to_json(), "digest": snapshot.digest})


def read_snapshot(work: WorkFolder) -> Snapshot:
    """`snapshot.json`, whose digest must be that of its content."""
    value = json.loads(work.snapshot.read_text())
    digest = value.pop("digest", None)
    snapshot = Snapshot.model_validate(value)
    if digest != snapshot.digest:
        raise ManifestError(
            Problem(
                "snapshot.json",
                f"content of digest {snapshot.digest}",
                f"{digest}, as when it was written",
                "history is immutable: restore the file, or start over in a new work folder",
            )
        )
    return snapshot


class RunLog:
    """`log.jsonl`: append-only, one JSON object a line; a torn last line of a killed writer is closed first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        self._file = open(path, "ab")  # noqa: SIM115 - open for as long as the run
        if self._file.tell():
            with open(path, "rb") as reader:
                reader.seek(-1, os.SEEK_END)
                if reader.read(1) != b"\n":
                    self._file.write(b"\n")

    def write(self, record: dict[str, Any]) -> None:
        line = json.dumps(finite({**record, "time": round(time.time(), 3)}), allow_nan=False)
        with self._lock, disk_errors(self._path):
            self._file.write(line.encode() + b"\n")
            self._file.flush()

    def sync(self) -> None:
        """Before a commit: what the checkpoint knows, the log knows."""
        with self._lock, disk_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
