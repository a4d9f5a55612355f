"""`chain` of report.json: what a run remembers of the stages before it, beside its own baseline and verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from rewarm_api.pins import Pins
from rewarm_api.snapshot import Role, Snapshot
from rewarm_trainer.chain import Cell, Chain, Column
from rewarm_trainer.lineage import Lineage, read_lineage
from rewarm_trainer.workdir import WorkFolder


def chain_of(work: WorkFolder, snapshot: Snapshot, pins: Pins, *, ended: bool) -> dict[str, Any] | None:
    """The chain that this run is the newest stage of; None for a run that continues no run, or is not judged yet."""
    lineage = read_lineage(work)
    if not lineage.stages or not ended:
        return None
    chain = gather(work, snapshot, pins, lineage)
    stages = [{"name": stage.name, "uid": stage.uid, "tokens": stage.tokens} for stage in lineage.stages]
    lengths = {stage.sequence_length for stage in lineage.stages} | {snapshot.training.sequence_length}
    notes = []
    if len(lengths) > 1:
        notes.append(
            f"stages scored documents in windows of {', '.join(map(str, sorted(lengths)))} tokens: rows of the matrix "
            "differ by that too"
        )
    return {
        "stages": [*stages, {"name": snapshot.name, "uid": snapshot.uid, "tokens": pins.plan.tokens}],
        **chain.to_json(),
        "seen": lineage.seen,
        "missing": lineage.missing,
        "notes": notes,
    }


def gather(work: WorkFolder, snapshot: Snapshot, pins: Pins, lineage: Lineage) -> Chain:
    """The matrix: one row for each model between two stages, one column for each set that this run scored."""
    last = len(lineage.stages) + 1
    columns = []
    for chosen in pins.evaluation_sets(snapshot):
        digest, stage, role, cells = pins.sets[chosen.name].digest, last, chosen.role, {}
        for number, earlier in reversed(list(enumerate(lineage.stages))):
            name = next((name for name, each in earlier.sets.items() if each.digest == digest), None)
            if name is None:
                continue
            stage, role = number + 1, Role(earlier.sets[name].role)
            if name in earlier.scores:
                cells[number] = _cell(earlier.scores[name])
        for row, kind in ((last - 1, "baseline"), (last, "final")):
            scores = json.loads((work.state / kind / f"{chosen.name}.json").read_text())
            cells[row] = _cell(scores)
        columns.append(Column(chosen.name, stage, role, dict(sorted(cells.items()))))
    columns.sort(key=lambda column: (column.stage, column.role is not Role.NEW, column.name))
    return Chain([*(stage.name for stage in lineage.stages), snapshot.name], columns, pins.vocabulary)


def _cell(scores: Mapping[str, Any]) -> Cell:
    nats, labels, size = (np.array(scores[key], dtype=np.float64) for key in ("nats", "labels", "bytes"))
    return Cell(nats, labels, size)


def metrics_of(report: Mapping[str, Any]) -> dict[str, float]:
    """The chain's figures under their MLflow names, the unknown left out."""
    chain = report.get("chain") or {}
    names = {
        "backwardTransfer": "chain/backward_transfer",
        "forwardTransfer": "chain/forward_transfer",
        "forwardTransferFromBase": "chain/forward_transfer_from_base",
        "forgetting": "chain/forgetting",
        "forgettingFromBest": "chain/forgetting_from_best",
    }
    return {name: chain[key] for key, name in names.items() if chain.get(key) is not None}
