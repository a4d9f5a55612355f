"""`rewarm checkpoints`: every checkpoint of a run, and whether it can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewarm_api.errors import MissingInputError
from rewarm_cli.output import Output, emit, show, table

COLUMNS = ("checkpoint", "committed", "verified", "why not", "step", "tokens", "size")


def execute(folder: Path, verify: bool, output: Output) -> int:
    """0; 65 when a committed checkpoint is not what was committed; 66 when there is no such folder."""
    from rewarm_trainer.checkpoint import audit

    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; name the work folder of a run")
    found: list[dict[str, Any]] = audit(folder, verify)
    if output is Output.JSON:
        emit(found)
    elif not found:
        print(f"{folder}: no checkpoints")
    else:
        show(table(str(folder), COLUMNS, map(_row, found), words=4))
    # A folder without its marker was never committed: it does not exist, and nothing is wrong with it.
    broken = any(item["committed"] and item["reason"] for item in found)
    return 65 if broken else 0


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    verified = {True: "yes", False: "no", None: "not asked"}[item["verified"]]
    name = item.get("name") or f"step-{item['step']:08d}"
    size = f"{item['size'] / 1e6:,.1f} MB"
    committed = "yes" if item["committed"] else "no"
    tokens = "?" if item["tokens"] is None else str(item["tokens"])
    return (name, committed, verified, item["reason"] or "", str(item["step"]), tokens, size)
