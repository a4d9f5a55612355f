"""A small corpus on disk and the run that uses it: two sources, one of them replay, and an evaluation set."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewarm_api.resolve import resolve
from rewarm_api.snapshot import Snapshot
from rewarm_api.validate import validate
from rewarm_trainer.corpus.prepare import Prepared, prepare
from rewarm_trainer.corpus.tokenizer import TokenizerHandle, train_tokenizer

WORDS = [
    f"{first}{second}" for first in ("ka", "lo", "mi", "ru", "te") for second in ("nd", "rst", "sh", "l", "mp", "x")
]


def make_texts(count: int, seed: int, words: int = 40) -> list[str]:
    """`count` different texts of about `words` words."""
    chosen = random.Random(seed)
    return [f"{seed}-{number} " + " ".join(chosen.choices(WORDS, k=words)) for number in range(count)]


def write_lines(path: Path, texts: list[str], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts))
    return path


class Workbench:
    """A folder with a corpus (`new.jsonl`, `old.jsonl`), a cache, and runs over them."""

    def __init__(self, root: Path) -> None:
        self.root, self.cache = root, root / "cache"
        self.messages: list[tuple[str, str, int, int, str]] = []
        write_lines(root / "new.jsonl", make_texts(120, seed=1))
        write_lines(root / "old.jsonl", make_texts(90, seed=2))

    def manifest(self, **changes: Any) -> dict[str, Any]:
        """The manifest of a run; `changes` replace fields of its spec."""
        spec: dict[str, Any] = {
            "baseModel": {"scratch": {"config": {"model_type": "llama"}, "tokenizer": {"vocabularySize": 300}}},
            "corpus": {"sources": [{"name": "new", "uri": "new.jsonl"}]},
            "replay": {"ratio": 0.25, "sources": [{"name": "old", "uri": "old.jsonl"}]},
            "schedule": {"peakLearningRate": 1e-3},
            "budget": {"tokens": 4096},
            "training": {"sequenceLength": 16, "globalBatchTokens": 256},
            "evaluation": {"heldOut": {"fraction": "5%", "minimumDocuments": 8}},
        }
        spec.update(changes)
        spec = {name: value for name, value in spec.items() if value is not None}
        return {"apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun", "metadata": {"name": "demo"}, "spec": spec}

    def snapshot(self, **changes: Any) -> Snapshot:
        validation = validate(self.manifest(**changes), local=True)
        assert validation.run is not None, validation.problems
        return resolve(validation.run, uid="test")

    def prepare(self, cache: Path | None = None, *, snapshot: Snapshot | None = None, **changes: Any) -> Prepared:
        options = {name: changes.pop(name) for name in ("tokenizer", "pins", "earlier") if name in changes}
        return prepare(
            snapshot or self.snapshot(**changes),
            root=self.root,
            cache=cache or self.cache,
            tokenizer=options.pop("tokenizer", None),
            progress=lambda *message: self.messages.append(message),
            **options,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerHandle:
    """A tokenizer with EOS and no BOS."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(make_texts(50, seed=3), 300, folder)
    return TokenizerHandle.load(folder)


@pytest.fixture(scope="session")
def texts() -> Callable[..., list[str]]:
    return make_texts


@pytest.fixture(scope="session")
def lines() -> Callable[..., Path]:
    return write_lines
