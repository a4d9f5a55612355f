"""A run's own folder beside its checkpoints (`<checkpoints.uri>run/`): everything small that must survive its pods.

    work folder of rank 0 --save (before each commit, and at the end)--> run/ --restore (every pod, at its start)-->

Files keep their names, so that people and tools can read them. `index.json` is written last, with the size and sha256
of each. A file that is not what the index says is not believed, with one exception: a log that only grew since.
Losing such a file costs history, never the experiment: weights and state lie in the checkpoints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewarm_api.errors import MissingInputError
from rewarm_trainer.files import write_bytes
from rewarm_trainer.storage import Storage, open_storage
from rewarm_trainer.workdir import WorkFolder

FOLDER = "run"
INDEX = "index.json"
# In the order in which they are written: a receipt never acknowledges points that are not there, and a report stands
# only beside all that it speaks of.
_PATTERNS = (
    "snapshot.json",
    "pins.json",
    "tokenizer/*",
    "state/prepare.json",
    "state/chain.json",
    "state/sets/*/documents.json",
    "state/sets/*/tokens.bin",
    "state/baseline/*.json",
    "state/looks/*/*.json",
    "state/raw/*.json",
    "state/final/*.json",
    "state/benchmarks/*/*.json",
    "state/serving/*.json",
    "state/serving.json",
    "log.jsonl",
    "state/spool/points.jsonl",
    "state/spool/receipt.json",
    "report.html",
    "model-card.md",
    "chain.svg",
    "report.json",
)
_GROWING = ("log.jsonl", "state/spool/points.jsonl")


class StoredRun:
    """The stored folder of one run. `guard` is asked before every write, and raises when another writer took over."""

    def __init__(self, store: Storage, work: WorkFolder, guard: Callable[[], None] = lambda: None) -> None:
        self._store, self._work, self._guard = store, work, guard
        self._known: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, tuple[int, int]] = {}

    @staticmethod
    def of(work: WorkFolder, checkpoints_uri: str, guard: Callable[[], None] = lambda: None) -> StoredRun:
        return StoredRun(open_storage(f"{checkpoints_uri.rstrip('/')}/{FOLDER}", root=work.root), work, guard)

    @property
    def uri(self) -> str:
        return self._store.uri("")

    def read(self, name: str) -> bytes | None:
        """One file as the index has it; None when it is not there or not whole."""
        return self._whole(name, self._index()[name]) if name in self._index() else None

    def _index(self) -> dict[str, dict[str, Any]]:
        try:
            files: dict[str, dict[str, Any]] = json.loads(self._store.get(INDEX))["files"]
        except (MissingInputError, ValueError, KeyError, TypeError):
            return {}
        return {name: entry for name, entry in files.items() if _is_ours(name)}

    def restore(self, warn: Callable[[str], None]) -> None:
        """Bring every stored file that the work folder does not have."""
        for name, entry in self._index().items():
            target = self._work.root / name
            if target.exists():
                continue
            data = self._whole(name, entry)
            if data is None:
                warn(f"{self._store.uri(name)}: missing, or not as {INDEX} says; it is not used")
                continue
            write_bytes(target, data)

    def _whole(self, name: str, entry: dict[str, Any]) -> bytes | None:
        try:
            data = self._store.get(name)
        except MissingInputError:
            return None
        size, digest = entry["size"], entry["sha256"]
        part = data[:size] if name in _GROWING else data
        return data if hashlib.sha256(part).hexdigest() == digest and len(part) == size else None

    def save(self) -> None:
        """Store what changed since the last time, then the index. Raises DependencyError when the store stays away."""
        changed = [path for path in self._files() if self._stamp(path) != self._seen.get(self._name(path))]
        if not changed:
            return
        self._guard()
        if not self._known:
            self._known = self._index()
        for path in changed:
            name, stamp = self._name(path), self._stamp(path)
            data = path.read_bytes()
            entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            if self._known.get(name) != entry:
                self._store.put(name, data)
                self._known[name] = entry
            self._seen[name] = stamp
        self._guard()
        self._store.put(INDEX, json.dumps({"version": 1, "files": self._known}, indent=1).encode())

    def _files(self) -> list[Path]:
        found = (path for pattern in _PATTERNS for path in sorted(self._work.root.glob(pattern)))
        return [path for path in found if path.is_file() and not path.name.startswith(".")]

    def _name(self, path: Path) -> str:
        return path.relative_to(self._work.root).as_posix()

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int]:
        status = path.stat()
        return status.st_size, status.st_mtime_ns


def _is_ours(name: str) -> bool:
    """An index comes from a bucket: it may name our files and no others."""
    return ".." not in name.split("/") and any(Path(name).match(pattern) for pattern in _PATTERNS) and name[:1] != "/"
