"""Rules of `spec.training.adaptation`. `validate` imports this module; broken fields are None."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.rules import rule


@rule("training.adaptation", "training.lora")
def lora_belongs_to_its_adaptation(spec: Any) -> Iterator[Problem]:
    training = spec.training
    if training.adaptation != "LoRA" and "lora" in training.model_fields_set:
        yield Problem(
            "spec.training.lora", f"lora with adaptation {training.adaptation}", "lora only with adaptation LoRA",
            "remove lora, or set adaptation: LoRA",
        )  # fmt: skip


@rule("training.adaptation", "training.freeze")
def lora_freezes_by_itself(spec: Any) -> Iterator[Problem]:
    if spec.training.adaptation == "LoRA" and spec.training.freeze:
        yield Problem(
            "spec.training.freeze", "freeze with adaptation LoRA", "no freeze: LoRA freezes every weight of the base",
            "remove freeze, or use adaptation: Full",
        )  # fmt: skip


@rule("training.adaptation", "baseModel.run.anneal")
def a_branch_trains_what_its_trunk_trained(spec: Any) -> Iterator[Problem]:
    run = spec.base_model.run
    if spec.training.adaptation == "LoRA" and run is not None and run.anneal is not None:
        yield Problem(
            "spec.baseModel.run.anneal", "anneal with adaptation LoRA",
            "a branch that goes on with its trunk's optimizer, which adapters cannot", "remove anneal, or use Full",
        )  # fmt: skip


@rule("training.adaptation", "schedule.optimizerState")
def adapters_begin_without_moments(spec: Any) -> Iterator[Problem]:
    state = spec.schedule.optimizer_state
    if spec.training.adaptation == "LoRA" and state not in (None, "Reset"):
        yield Problem(
            "spec.schedule.optimizerState", f"{state} with adaptation LoRA",
            "Reset: new adapters have no moments that a base could hand on", "remove optimizerState",
        )  # fmt: skip
