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
from rewarm_trainer.micro_batch import Shape, micro_batch_rows
from rewarm_trainer.techniques import Machine, Switches, Work

THIS = "this machine"
GPU_NODE = "a node with GPUs"
CPU_POD = "a pod without GPUs, on a node like this machine"


def config_of(base: BaseModelSource, root: Path) -> Mapping[str, Any]:
    """The base's transformers configuration where it can be read from the manifest or a file; empty where not."""
    if base.kind == "scratch":
        config, tokenizer = base.options.get("config") or {}, base.options.get("tokenizer") or {}
        return {**config, "vocab_size": tokenizer.get("vocabularySize") or config.get("vocab_size")}
    if base.kind != "file":
        return {}
    try:
        config = json.loads((root / base.options["path"] / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, Mapping) else {}


def machine_for(snapshot: Snapshot, document: Mapping[str, Any]) -> tuple[Machine, str]:
    """Where the run would train: pods where the manifest itself asks for compute, else this machine."""
    if document["spec"].get("compute") is None:
        return machine.find(), THIS
    if snapshot.operation.get("compute", {}).get("gpusPerNode"):
        return machine.gpu_node(), GPU_NODE
    return machine.cpu_pod(), CPU_POD


def processes_of(snapshot: Snapshot, where: str) -> int | None:
    """How many processes a manifest for GPUs asks for; None where the command that starts the run says it."""
    compute = snapshot.operation.get("compute", {})
    return int(compute["nodes"] * compute["gpusPerNode"]) if where == GPU_NODE and "nodes" in compute else None


def switches_of(snapshot: Snapshot, where: str) -> Mapping[str, str]:
    """The environment that the run's processes will have: this shell's, or what the manifest gives its pods."""
    if where == THIS:
        return dict(os.environ)
    template = snapshot.operation.get("compute", {}).get("podTemplate") or {}
    return {each["name"]: each.get("value") or "" for each in template.get("env") or ()}


def technique_facts(
    snapshot: Snapshot,
    plan: Plan,
    parameters: int | None,
    vocabulary: int | None,
    config: Mapping[str, Any],
    machine: Machine,
    where: str,
) -> dict[str, Any]:
    """Every technique, whether it is on, why, and what switches it."""
    training = snapshot.training
    rows = micro_batch_rows(training.micro_batch_rows, plan.rows_per_step, training.sequence_length)
    # A quoted number is the model's to refuse, when it is made; here it is a number that nobody knows.
    numbers = {name: value for name, value in config.items() if isinstance(value, int)}
    vocabulary = vocabulary or numbers.get("vocab_size")
    work = Work(
        parameters,
        plan.tokens,
        vocabulary,
        rows,
        training.sequence_length,
        processes=processes_of(snapshot, where),
        needs_whole=needs_whole(snapshot),
        heads=Shape.of(numbers, parameters or 0, vocabulary or 0).heads or None,
    )
    switches = Switches.read(training.precision, switches_of(snapshot, where), training.parallelism)
    return {
        "device": machine.device,
        "where": where,
        "techniques": [
            {"name": each.name, "on": each.on, "why": each.why, "switch": each.switch}
            for each in techniques.listed(machine, work, switches)
        ],
    }
