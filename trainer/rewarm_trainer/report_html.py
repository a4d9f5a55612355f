"""`report.html`: the report of a run as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewarm_api.snapshot import Pins, Snapshot
from rewarm_trainer.runlog import Log


def render_html(report: Mapping[str, Any], *, snapshot: Snapshot | None, pins: Pins | None, log: Log) -> str:
    """The page. Without snapshot or pins it leaves out what only they know (sources' licences, how to reproduce)."""
    raise NotImplementedError


def render_folder(folder: Path) -> str:
    """The page of the run in a work folder (MissingInputError when it holds no report)."""
    raise NotImplementedError
