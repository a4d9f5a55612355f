"""Runs of the product as a person starts them, for rows that measure a whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speed import texts
from speed.arm import PRODUCT
from speed.work import Work


def manifest(folder: Path, work: Work, steps: int, spec: Mapping[str, Any] | None = None) -> Path:
    """A run of `steps` steps of one size over real text; `spec` is laid over it. Makes the text the first time."""
    if not (folder / "new").exists():
        texts.write(folder / "new", 4, skip=0)
        texts.write(folder / "old", 4, skip=4)
    config = {name: value for name, value in work.config().items() if name != "model_type"}
    document = {
        "apiVersion": "rewarm.dev/v1alpha1",
        "kind": "ContinualRun",
        "metadata": {"name": "bench"},
        "spec": {
            "baseModel": {
                "scratch": {
                    "config": {"model_type": "llama", **config},
                    "tokenizer": {"vocabularySize": work.vocabulary},
                }
            },
            "corpus": {"sources": [source("new", folder)]},
            "replay": {"ratio": 0.25, "sources": [source("old", folder)]},
            "schedule": {"peakLearningRate": 3e-4},
            "budget": {"tokens": steps * work.tokens},
            "training": {"sequenceLength": work.length, "globalBatchTokens": work.tokens},
            **(spec or {}),
        },
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(document))
    return path


def source(name: str, folder: Path) -> dict[str, Any]:
    return {"name": name, "uri": str(folder / name / "*.jsonl"), "format": "JsonLines", "license": "PSF-2.0"}


@dataclass(frozen=True)
class Done:
    """A run that ended: its log, its report, and what it took from the outside."""

    seconds: float
    first_step_seconds: float
    log: list[dict[str, Any]]
    report: dict[str, Any]

    @property
    def model_seconds(self) -> float:
        """What the load of the model took, by the run's own clock."""
        return float(next(record["model_seconds"] for record in self.log if "model_seconds" in record))

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [record for record in self.log if "loss" in record and "learning_rate" in record]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    return {**kept, "PYTHONPATH": os.pathsep.join(PRODUCT), **(extra or {})}


def cache_of(path: Path) -> Path:
    """Where runs of a manifest keep what they prepare."""
    return path.parent / "cache" / "rewarm"


def run(path: Path, workdir: Path, words: Sequence[str] = (), extra: Mapping[str, str] | None = None) -> Done:
    """`rewarm run` to its end. RuntimeError with its last line when it fails."""
    here = {"XDG_CACHE_HOME": str(cache_of(path).parent), **(extra or {})}
    log = workdir / "log.jsonl"
    command = [sys.executable, "-m", "rewarm_cli", "run", str(path), "--workdir", str(workdir), *words]
    began, first = time.monotonic(), 0.0
    said = (path.parent / "said.txt").open("w+")
    with said, subprocess.Popen(command, stdout=said, stderr=said, env=environment(here)) as process:
        while process.poll() is None:
            if not first and log.exists() and '"step": 1,' in log.read_text():
                first = time.monotonic() - began
            time.sleep(0.005 if not first else 0.1)
        seconds = time.monotonic() - began
        if process.returncode:
            said.seek(0)
            lines = [line.strip() for line in said if line.strip()] or ["nothing"]
            raise RuntimeError(f"rewarm run ended with {process.returncode}: {lines[-1][:300]}")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return Done(seconds, first, records, json.loads((workdir / "report.json").read_text()))
