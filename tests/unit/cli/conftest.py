from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewarm_cli import main


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def rewarm(monkeypatch, capsys):
    """Runs a command in this process, as the console script would."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["rewarm", *map(str, arguments)])
        with pytest.raises(SystemExit) as finished:
            main.main()
        captured = capsys.readouterr()
        return Result(finished.value.code, captured.out, captured.err)

    return run


MANIFEST: dict[str, Any] = {
    "apiVersion": "rewarm.dev/v1alpha1",
    "kind": "ContinualRun",
    "metadata": {"name": "demo"},
    "spec": {
        "baseModel": {"file": {"path": "./base"}},
        "corpus": {
            "sources": [
                {"name": "a", "uri": "a.jsonl", "weight": 5, "license": "CC0"},
                {"name": "b", "uri": "b.jsonl", "weight": 3, "license": "CC0"},
                {"name": "c", "uri": "c.jsonl", "weight": 2, "license": "CC0"},
            ]
        },
        "schedule": {"peakLearningRate": 0.001, "warmup": "10%"},
        "budget": {"tokens": 10_000},
        "training": {"sequenceLength": 10, "globalBatchTokens": 100},
    },
}


@pytest.fixture
def manifest(tmp_path):
    """Writes the manifest above, with some fields changed; the files that it names do not exist."""

    def write(**spec: Any) -> Path:
        document = {**MANIFEST, "spec": {**MANIFEST["spec"], **spec}}
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write
