"""Which techniques of speed a run would use, for `rewarm plan`: the trainer's own choice, without loading anything."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewarm_api.snapshot import BaseModelSource, Plan, Snapshot
from rewarm_trainer import machine, techniques
from rewarm_trainer.experiment import needs_whole
from rewarm_trainer.micro_batch import micro_batch_rows
from rewarm_trainer.techniques import Machine, Switches, Work

GPU_NODE = "a node with GPUs"


def vocabulary_of(base: BaseModelSource, root: Path) -> int | None:
    """Rows of the base's embedding where they can be read from a file; None where not."""
    config: Mapping[str, Any] = {}
    if base.kind == "scratch":
        tokenizer = base.options.get("tokenizer") or {}
        config = {**(base.options.get("config") or {})}
        found = tokenizer.get("vocabularySize") or config.get("vocab_size")
    elif base.kind == "file":
        try:
            config = json.loads((root / base.options["path"] / "config.json").read_text())
        except (OSError, ValueError):
            return None
        found = config.get("vocab_size")
    else:
        return None
    return found if isinstance(found, int) else None


def machine_for(snapshot: Snapshot, document: Mapping[str, Any]) -> tuple[Machine, str]:
    """Where the run would train: nodes with GPUs where the manifest itself asks for compute, else this machine."""
    asked = document["spec"].get("compute") is not None
    if asked and snapshot.operation.get("compute", {}).get("gpusPerNode"):
        return machine.gpu_node(), GPU_NODE
    return machine.find(), "this machine"


def processes_of(snapshot: Snapshot, where: str) -> int | None:
    """How many processes a manifest for GPUs asks for; None where the command that starts the run says it."""
    compute = snapshot.operation.get("compute", {})
    return int(compute["nodes"] * compute["gpusPerNode"]) if where == GPU_NODE and "nodes" in compute else None


def technique_facts(
    snapshot: Snapshot, plan: Plan, parameters: int | None, vocabulary: int | None, machine: Machine, where: str
) -> dict[str, Any]:
    """Every technique, whether it is on, why, and what switches it."""
    training = snapshot.training
    rows = micro_batch_rows(training.micro_batch_rows, plan.rows_per_step, training.sequence_length)
    work = Work(
        parameters,
        plan.tokens,
        vocabulary,
        rows,
        training.sequence_length,
        processes=processes_of(snapshot, where),
        needs_whole=needs_whole(snapshot),
    )
    switches = Switches.read(training.precision, dict(os.environ), training.parallelism)
    return {
        "device": machine.device,
        "where": where,
        "techniques": [
            {"name": each.name, "on": each.on, "why": each.why, "switch": each.switch}
            for each in techniques.listed(machine, work, switches)
        ],
    }
