"""Corpus preparation, and the tokenizer library alone on the same text."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil

from rewarm_api.resolve import resolve
from rewarm_api.validate import validate
from rewarm_trainer.corpus.prepare import prepare
from rewarm_trainer.corpus.tokenizer import TokenizerHandle, train_tokenizer


class Weighed:
    """The largest sum of proportional set sizes of this process and its children while it is open."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._done.wait(0.1):
            total = 0
            for process in (own, *own.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().pss
            self.megabytes = max(self.megabytes, total / 1e6)

    def __enter__(self) -> Weighed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


class Preparing:
    def __init__(self, text: str, tokenizer: str, vocabulary: int) -> None:
        """`text`: a folder of JSON lines; `tokenizer`: where one is made the first time."""
        if not Path(tokenizer, "tokenizer.json").exists():
            lines = (json.loads(line)["text"] for line in next(iter(sorted(Path(text).glob("*")))).open())
            train_tokenizer((line for _, line in zip(range(200), lines, strict=False)), vocabulary, Path(tokenizer))
        self._text, self._tokenizer = text, TokenizerHandle.load(Path(tokenizer))
        self._texts: list[str] = []

    def _snapshot(self) -> Any:
        source = {"name": "text", "uri": f"{self._text}/*.jsonl", "format": "JsonLines", "license": "PSF-2.0"}
        spec = {
            "baseModel": {"file": {"path": "base"}},
            "corpus": {"sources": [source]},
            "replay": {"ratio": 0},
            "schedule": {"peakLearningRate": 1e-3},
            "budget": {"tokens": 1_000_000},
            "training": {"sequenceLength": 256, "globalBatchTokens": 4096},
        }
        document = {
            "apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun", "metadata": {"name": "bench"}, "spec": spec
        }  # fmt: skip
        found = validate(document, local=True)
        if found.run is None or found.problems:
            raise ValueError(str(found.problems))
        return resolve(found.run, uid="bench")

    def prepare_and_weigh(self) -> float:
        """`prepare`; the most memory that its processes had together (PSS, ten looks a second), in MB."""
        with Weighed() as weighed:
            self.prepare()
        return weighed.megabytes

    def prepare(self) -> int:
        """From files to shards and sets, everything read and hashed; the tokens."""
        cache = Path(tempfile.mkdtemp(prefix="rewarm-speed-"))
        try:
            found = prepare(self._snapshot(), root=cache, cache=cache, tokenizer=self._tokenizer, base_model={})
            return sum(source.tokens for source in found.sources().values())
        finally:
            shutil.rmtree(cache, ignore_errors=True)

    def load(self) -> None:
        """The texts into memory, for the library alone."""
        paths = sorted(Path(self._text).glob("*"))
        self._texts = [json.loads(line)["text"] for path in paths for line in path.open()]

    def encode(self) -> int:
        """The library's own batches on all cores, from memory to ids; the tokens."""
        tokens = 0
        for at in range(0, len(self._texts), 1000):
            tokens += sum(map(len, self._tokenizer.encode_batch(self._texts[at : at + 1000])))
        return tokens
