"""`model-card.md`: a Hugging Face model card from the report, the snapshot and the pins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewarm_api.snapshot import Pins, Snapshot


def model_card(report: Mapping[str, Any], snapshot: Snapshot, pins: Pins | None) -> str:
    """The card as Markdown with YAML front matter."""
    raise NotImplementedError
