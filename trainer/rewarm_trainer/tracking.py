"""MLflow, kept off the training thread. The only importer of mlflow.

Interface (implementation follows): every method returns at once and never raises, but for `finish`, `register` and
`set_alias`, which wait for the server no longer than their deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finished:
    """How a tracker ended. delivered: everything arrived. pending: points still in the spool. message: one line."""

    delivered: bool
    pending: int
    message: str


class Tracker:
    """One MLflow run, fed from a spool on disk by one background thread."""

    @staticmethod
    def start(
        uri: str,
        experiment: str,
        run_name: str,
        uid: str,
        tags: Mapping[str, Any],
        params: Mapping[str, Any],
        spool: Path,
        artifact_root: Path | None = None,
    ) -> Tracker:
        raise NotImplementedError

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run, None while no server was ever reached."""
        raise NotImplementedError

    @property
    def problem(self) -> str | None:
        """Why points are waiting, in one line; None while all goes well."""
        raise NotImplementedError

    def log(self, metrics: Mapping[str, float], tokens: int) -> None:
        """Record metrics at a token count. Numbers that are not finite are dropped. Never raises, never waits."""
        raise NotImplementedError

    def attach(self, path: Path) -> None:
        """Upload a small file (report, model card) as an artifact before the run ends; best effort."""
        raise NotImplementedError

    def register(
        self, model_name: str, source_uri: str, tags: Mapping[str, Any], *, deadline_seconds: float = 30.0
    ) -> str | None:
        """The version registered for `source_uri` (found again when it exists), None when it could not be done."""
        raise NotImplementedError

    def set_alias(self, name: str, alias: str, version: str, *, deadline_seconds: float = 30.0) -> bool:
        """Point `alias` at `version`; False when it could not be done."""
        raise NotImplementedError

    def finish(self, status: str, deadline_seconds: float = 30.0) -> Finished:
        """Deliver what waits, set the terminal status (FINISHED, FAILED or KILLED) and stop the thread."""
        raise NotImplementedError
