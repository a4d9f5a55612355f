"""A tiny world: real text, a manifest that trains in seconds, and the real command in real processes."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rewarm_bench.warm import Warm, WarmProcess

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def paragraphs() -> list[str]:
    """English prose that every CPython ships."""
    from pydoc_data.topics import topics

    return [part for text in topics.values() for part in text.split("\n\n") if len(part) > 200]


def functions() -> list[str]:
    """Source code that every CPython ships, cut at its top-level definitions."""
    folder = Path(os.__file__).parent
    names = ("argparse.py", "tarfile.py", "pickle.py", "typing.py", "inspect.py")
    texts = [(folder / name).read_text() for name in names]
    return [part for text in texts for part in text.split("\n    def ") if len(part) > 200]


def write_lines(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class World:
    """A folder with corpora, and `rewarm` in it.

    Commands are real processes, forked from one that has imported torch already; one with an environment of its own
    begins cold, because much of an environment is read by imports.
    """

    root: Path
    environment: dict[str, str]
    warm: list[Warm] = field(default_factory=list, compare=False)

    def manifest(self, name: str = "tiny", **changes: Any) -> Path:
        """The tiny manifest with some fields changed: `corpus__sources=...`; None removes a field."""
        document = copy.deepcopy(MANIFEST)
        document["metadata"]["name"] = name
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = document["spec"]
            for parent in parents:
                place = place.setdefault(parent, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        file = self.root / f"{name}.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        return file

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "rewarm_cli", *map(str, arguments)]

    def rewarm(self, *arguments: str | Path, **environment: str) -> Finished:
        process = self.start(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=float(os.environ.get("REWARM_TEST_PATIENCE", "240")))
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode is not None
        return Finished(process.returncode, out, err)

    def fork(self, *arguments: str | Path, module: str = "rewarm_cli", **environment: str) -> WarmProcess:
        """The command in the background, forked warm; `environment`: only what no import reads."""
        if not self.warm:
            self.warm.append(Warm(self.environment))
        return self.warm[0].start([str(argument) for argument in arguments], self.root, module, environment)

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str] | WarmProcess:
        """The command in the background, its progress lines readable from `stderr`."""
        if not environment:
            return self.fork(*arguments)
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **environment},
            cwd=self.root,
        )

    def run(self, manifest: Path, workdir: str, *arguments: str, **environment: str) -> Finished:
        return self.rewarm("run", manifest, "--workdir", self.root / workdir, *arguments, **environment)

    def report(self, workdir: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.root / workdir / "report.json").read_text())
        return value

    def log(self, workdir: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / workdir / "log.jsonl").read_text().splitlines()]


MANIFEST: dict[str, Any] = {
    "apiVersion": "rewarm.dev/v1alpha1",
    "kind": "ContinualRun",
    "metadata": {"name": "tiny"},
    "spec": {
        "baseModel": {"scratch": {"config": CONFIG, "tokenizer": {"vocabularySize": 400}}},
        "corpus": {"sources": [{"name": "code", "uri": "data/code.jsonl", "license": "PSF-2.0"}]},
        "replay": {
            "ratio": 0.25,
            "sources": [{"name": "general", "uri": "data/general.jsonl", "license": "PSF-2.0"}],
        },
        "schedule": {"peakLearningRate": 2.0e-3, "warmup": "10%"},
        "budget": {"tokens": 10240},
        "training": {"sequenceLength": 32, "globalBatchTokens": 256, "precision": "FP32", "seed": 3},
        "evaluation": {"heldOut": {"maximumTokens": 4000, "minimumDocuments": 32}, "every": "25%", "lookTokens": 2000},
        "checkpoints": {"every": "10%"},
    },
}


def read_until(process: subprocess.Popen[str] | WarmProcess, wanted: Callable[[str], bool]) -> str:
    """Read progress lines until one is wanted: the event that a test waits for."""
    assert process.stderr
    seen = []
    for line in process.stderr:
        seen.append(line)
        if wanted(line):
            return line
    raise AssertionError(f"ended with {process.wait()} before the awaited line:\n{''.join(seen)}")
