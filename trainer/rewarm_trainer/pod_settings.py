"""What a pod is told: the environment and the files that the operator gives it (design: operator.md, "Objects").

Every path can be moved by the environment, so that the same program runs by hand, without a cluster.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm_api.errors import ManifestError, MissingInputError, Problem
from rewarm_api.frozen import digest_of
from rewarm_api.pins import Pins
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.addresses import checkpoints_uri

LINGER_SECONDS = 60.0
"""Two scrape intervals of a usual Prometheus."""


@dataclass(frozen=True)
class Pod:
    """One pod of a run, by what it was told."""

    config: Path
    """Folder of snapshot.json and attempt.json."""
    home: Path
    """The one writable folder: work folder, local cache, notes between processes."""
    run: str
    namespace: str
    uid: str
    attempt: int
    nodes: int
    node: int
    """Rank of this node: the Job's completion index."""
    processes: int
    """Training processes on this node."""
    name: str
    pod_uid: str
    master_address: str
    master_port: int
    metrics_port: int | None
    termination_log: Path
    shutdown_seconds: float
    """How long workers may take to commit after a SIGTERM."""
    linger_seconds: float
    """How long metrics stay up after the end."""

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Pod:
        """Raises ManifestError (64) for a value that is no number."""

        def number(name: str, default: float) -> float:
            text = environment.get(name) or str(default)
            try:
                return float(text)
            except ValueError:
                problem = Problem(name, text, "a number", "leave it to the operator, or correct it")
                raise ManifestError(problem) from None

        home = Path(environment.get("REWARM_HOME") or "/var/lib/rewarm")
        metrics = int(number("REWARM_METRICS_PORT", -1))
        return Pod(
            config=Path(environment.get("REWARM_CONFIG") or "/etc/rewarm"),
            home=home,
            run=environment.get("REWARM_RUN", ""),
            namespace=environment.get("REWARM_NAMESPACE", ""),
            uid=environment.get("REWARM_RUN_UID", ""),
            attempt=int(number("REWARM_ATTEMPT", 0)),
            nodes=int(number("REWARM_NODES", 1)),
            node=int(number("JOB_COMPLETION_INDEX", 0)),
            processes=int(number("REWARM_PROCESSES_PER_NODE", 1)),
            name=environment.get("REWARM_POD_NAME") or environment.get("HOSTNAME", ""),
            pod_uid=environment.get("REWARM_POD_UID", ""),
            master_address=environment.get("REWARM_MASTER_ADDRESS") or "127.0.0.1",
            master_port=int(number("REWARM_MASTER_PORT", 29500)),
            metrics_port=None if metrics < 0 else metrics,
            termination_log=Path(environment.get("REWARM_TERMINATION_LOG") or "/dev/termination-log"),
            shutdown_seconds=number("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", 30),
            linger_seconds=number("REWARM_METRICS_LINGER_SECONDS", LINGER_SECONDS),
        )

    @property
    def work(self) -> Path:
        return self.home / "work"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def notes(self) -> Path:
        """What the processes of this pod leave for its wrapper: how they ended, what was told last."""
        return self.home / "notes"

    @property
    def taken_over(self) -> Path:
        """Exists once rank 0's worker reports: from then on the wrapper is silent."""
        return self.notes / "worker-reports"

    @property
    def world(self) -> int:
        return self.nodes * self.processes

    def snapshot(self) -> Snapshot:
        """The snapshot that the operator wrote, whose digest must be that of its content."""
        path = self.config / "snapshot.json"
        try:
            value = json.loads(path.read_text())
            digest = value.pop("digest", None)
            snapshot = Snapshot.model_validate(value)
        except FileNotFoundError:
            raise MissingInputError(
                f"{path}: no such file; a pod of a run gets it from ConfigMap {self.run or '<run>'} (by hand: set "
                "REWARM_CONFIG to a folder that holds it)"
            ) from None
        except ValueError as error:
            text = str(error).splitlines()[0]
            fix = "use one version for operator and trainer image, or restore the ConfigMap"
            raise ManifestError(Problem("snapshot.json", text, "a snapshot of this version", fix)) from None
        if digest != snapshot.digest:
            found = f"content of digest {snapshot.digest}"
            raise ManifestError(Problem("snapshot.json", found, str(digest), "restore the ConfigMap: it is immutable"))
        checkpoints_uri(snapshot)
        return snapshot

    def as_asked_now(self, snapshot: Snapshot) -> Snapshot:
        """With what may change from attempt to attempt: `gates.onForgetting`, outside the experiment."""
        asked = self._attempt_file().get("onForgetting")
        if snapshot.gates is None or not asked:
            return snapshot
        return snapshot.model_copy(update={"gates": snapshot.gates.model_copy(update={"on_forgetting": asked})})

    def attempt_number(self) -> int:
        """As attempt.json says, else as the environment does; from 1."""
        number = self._attempt_file().get("number")
        return number if isinstance(number, int) else max(1, self.attempt)

    def _attempt_file(self) -> dict[str, Any]:
        try:
            value = json.loads((self.config / "attempt.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}


def experiment_digest(snapshot: Snapshot, pins: Pins) -> str:
    """Names what was trained: everything that was asked for, and everything that the data told."""
    return digest_of([snapshot.digest, pins.digest])
