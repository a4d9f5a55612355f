"""Rules of `spec.training.parallelism`: what is not made for sharded weights. Broken fields are None."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.replay_rules import META
from rewarm_api.rules import rule

_FIELD = "spec.training.parallelism"
_MEND = "use Auto or Replicated, or leave the other out"


@rule("training.parallelism", "training.adaptation")
def adapters_are_whole(spec: Any) -> Iterator[Problem]:
    if spec.training.parallelism == "Sharded" and spec.training.adaptation == "LoRA":
        yield Problem(_FIELD, "Sharded with adaptation LoRA", "Replicated: adapters are small", _MEND)


@rule("training.parallelism", "replay.method")
def reptile_steps_are_whole(spec: Any) -> Iterator[Problem]:
    method = spec.replay.method if spec.replay is not None else None
    if spec.training.parallelism == "Sharded" and method == META:
        yield Problem(_FIELD, f"Sharded with replay.method {META}", "Replicated: its anchor is a whole model", _MEND)


@rule("training.parallelism", "evaluation.benchmarks")
def benchmarks_ask_whole_models(spec: Any) -> Iterator[Problem]:
    if spec.training.parallelism == "Sharded" and spec.evaluation.benchmarks:
        yield Problem(
            _FIELD, "Sharded with evaluation.benchmarks", "Replicated: benchmarks ask a model that is whole", _MEND
        )
