"""Looks at a model: the untouched base first, then on the way, then the final one, always paired per document.

A look scores the first documents of each set (`evaluation.lookTokens`), the baseline and the final one all of them.
Decides nothing about promotion; it measures. Per-document results stay in the work folder for anyone to check.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from rewarm_api.errors import DataError
from rewarm_api.frozen import digest_of
from rewarm_api.snapshot import Role
from rewarm_trainer import evaluation, flips, forgetting, statistics
from rewarm_trainer.evaluation import Documents, Scores
from rewarm_trainer.files import write_json
from rewarm_trainer.lora import merged
from rewarm_trainer.overfitting import Lowest
from rewarm_trainer.sharding import whole
from rewarm_trainer.statistics import Delta

Value = TypeVar("Value")


@dataclass(frozen=True)
class EvaluationSet:
    name: str
    role: Role
    digest: str
    documents: Documents


@dataclass(frozen=True)
class Scorer:
    """How documents are scored in this run: the same way before, during and after."""

    losses: nn.Module
    bos: int | None
    eos: int
    length: int
    batch_tokens: int
    precision: str
    rank: int
    world: int
    sharded: bool = False

    def score(self, documents: Documents, count: int | None, progress: Callable[[int, int], None] | None) -> Scores:
        """The first `count` documents, or (None) all, then with a mark of each label that the model has right."""
        return evaluation.score(
            self.losses,
            documents,
            bos=self.bos,
            eos=self.eos,
            length=self.length,
            batch_tokens=self.batch_tokens,
            precision=self.precision,
            count=count,
            rank=self.rank,
            world=self.world,
            progress=progress,
            top1=count is None,
            together=self.sharded,
        )


def weights_digest(model: nn.Module) -> str:
    """sha256 over the weights as they are in memory: names, shapes and FP32 bytes. Of a sharded model a collective."""
    digest = hashlib.sha256()
    # Adapters begin as nothing: what is scored before the first update is the base.
    named = {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" not in name
    }
    for name, parameter in sorted(named.items()):
        digest.update(f"{name}\0{tuple(parameter.shape)}\0".encode())
        digest.update(whole(parameter.detach()).cpu().contiguous().view(torch.uint8).numpy().data)
    return "sha256:" + digest.hexdigest()


@contextmanager
def rounded_to(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """The weights as they will be exported, adapters merged; the FP32 masters come back untouched."""
    with merged(model):
        yield from _rounded(model, dtype)


def _rounded(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    if dtype is torch.float32:
        yield
        return
    masters = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    with torch.no_grad():
        for parameter, _ in masters:
            parameter.copy_(parameter.to(dtype))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, master in masters:
                parameter.copy_(master)


def from_rank_0(value: Value, world: int) -> Value:
    """The value of rank 0, on every rank of `world`."""
    box = [value]
    if world > 1:
        torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


class Looks:
    """All looks of one run. Every rank scores its share, rank 0 judges, and all ranks get the same line."""

    def __init__(
        self,
        sets: Mapping[str, EvaluationSet],
        scorer: Scorer,
        *,
        look_tokens: int,
        export_type: torch.dtype,
        state: Path,
        report: Callable[[str, int, int], None],
        last: str = "final",
    ) -> None:
        """`last`: the folder of `state` that gets the documents of the last look."""
        self.sets = dict(sets)
        self.export_type = export_type
        self._scorer = scorer
        self._look_tokens = look_tokens
        self._state, self._last = state, last
        self._report = report
        self._base: dict[str, Scores] = {}
        self.lowest = Lowest()
        self._serving: dict[str, Scores] = {}
        self.base_digest = ""

    def baseline(self, cache: Path, tokenizer: str) -> dict[str, Any]:
        """Score the untouched base before the first update; found again by digest, here or in the user's cache."""
        began = time.monotonic()
        weights = self.base_digest = weights_digest(self._scorer.losses)
        for name, chosen in self.sets.items():
            how = [self._scorer.length, self._scorer.precision]
            # Sharded weights meet in the compute type, before every operation and not in some.
            how += ["Sharded"] if self._scorer.sharded else []
            key = digest_of([weights, tokenizer, chosen.digest, *how])
            version = f"v{evaluation.CODE_VERSION}-torch-{torch.__version__}"
            cached = cache / "baselines" / version / f"{key.removeprefix('sha256:')}.json"
            # One rank that finds the cache and one that does not would wait for each other for ever.
            found = self._from_rank_0(_read(cached) if self._scorer.rank == 0 else None)
            self._base[name] = found if found else self._score(name, None)
            if self._scorer.rank == 0:
                if not found:
                    write_json(cached, self._base[name].to_json())
                write_json(self._state / "baseline" / f"{name}.json", self._base[name].to_json())
        return self._line(0, 0, self._base, full=True, began=began)

    def resume(self) -> None:
        """Take the baseline from the work folder: after an update there is no untouched base to score."""
        for name in self.sets:
            path = self._state / "baseline" / f"{name}.json"
            scores = _read(path)
            if scores is None:
                raise DataError(f"{path}: the baseline of this run is missing; start over in a new work folder")
            self._base[name] = scores

    def take_serving(self) -> None:
        """What the serving version scored, where there is one: the final look is compared with it too."""
        for name in self.sets:
            scores = _read(self._state / "serving" / f"{name}.json")
            if scores is not None and (self._state / "serving.json").exists():
                self._serving[name] = scores

    def look(self, step: int, tokens: int) -> dict[str, Any]:
        """The first documents of each set, paired with the same documents of the baseline."""
        began = time.monotonic()
        scores = {}
        for name, chosen in self.sets.items():
            count = evaluation.within(chosen.documents, self._scorer.bos, self._look_tokens)
            scores[name] = self._score(name, count)
            if self._scorer.rank == 0:
                write_json(self._state / "looks" / f"step-{step:08d}" / f"{name}.json", scores[name].to_json())
        return self._line(step, tokens, scores, full=False, began=began)

    def final(self, model: nn.Module, step: int, tokens: int) -> dict[str, Any]:
        """The whole sets, on the weights as they will be exported."""
        began = time.monotonic()
        with rounded_to(model, self.export_type):
            scores = {name: self._score(name, None) for name in self.sets}
        if self._scorer.rank == 0:
            self.write_documents(scores, self._last)
        return self._line(step, tokens, scores, full=True, began=began)

    def scored_by(self, losses: nn.Module, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Mean loss of another model on the sets of these names: `full`, and on the documents of a `look`."""
        scorer, found = replace(self._scorer, losses=losses), {}
        for name in names:
            documents = self.sets[name].documents
            scores = scorer.score(documents, None, None)
            few = scores.first(evaluation.within(documents, scorer.bos, self._look_tokens))
            found[name] = {"full": scores.loss, "look": few.loss}
        return found

    def write_documents(self, scores: Mapping[str, Scores], folder: str) -> None:
        """What each document showed, for anyone to check; `final` is what `rewarm compare` reads."""
        for name, value in scores.items():
            given = self.sets[name].documents
            extra = {"label_values": list(given.labels), "dates": list(given.dates)}
            write_json(self._state / folder / f"{name}.json", {**value.to_json(), **extra})

    def score(self, documents: Documents) -> Scores:
        """Any documents, by the model as it stands; every rank takes part."""
        return self._scorer.score(documents, None, None)

    def baseline_of(self, name: str) -> Scores:
        """The untouched base on every document of a set."""
        return self._base[name]

    def serving_of(self, name: str) -> Scores | None:
        """The version that serves on every document of a set; None where there is none."""
        return self._serving.get(name)

    def _score(self, name: str, count: int | None) -> Scores:
        return self._scorer.score(self.sets[name].documents, count, self.progress_of(name))

    def progress_of(self, name: str) -> Callable[[int, int], None]:
        """Tells how much of a set is scored."""
        return lambda done, total: self._report(name, done, total)

    def _line(
        self, step: int, tokens: int, scores: Mapping[str, Scores], *, full: bool, began: float
    ) -> dict[str, Any]:
        """The look as one JSON object, judged by rank 0 and handed to the others."""
        line: dict[str, Any] = {}
        if self._scorer.rank == 0:
            sets = {name: self._set(name, value, step > 0) for name, value in scores.items()}
            for name in [name for name in sets if step > 0 and self.sets[name].role is Role.NEW]:
                sets[name]["rise"] = self.lowest.rise(name, step, tokens, scores[name].nats, scores[name].labels)
            line = {"step": step, "tokens": tokens, "full": full, "sets": sets, **summary_of(sets)}
            line["seconds"] = round(time.monotonic() - began, 3)
        return self._from_rank_0(line)

    def _from_rank_0(self, value: Value) -> Value:
        return from_rank_0(value, self._scorer.world)

    def _set(self, name: str, scores: Scores, paired: bool) -> dict[str, Any]:
        value = {
            "role": str(self.sets[name].role),
            "loss": scores.loss,
            "bits_per_byte": scores.bits_per_byte,
            "documents": len(scores.hashes),
            "tokens": int(scores.labels.sum()),
            "delta": None,
        }
        if paired:
            base = self._base[name].first(len(scores.hashes))
            if base.hashes != scores.hashes or (base.labels != scores.labels).any():
                raise DataError(f"evaluation set {name}: the documents are not those of the baseline")
            difference = scores.nats - base.nats
            value["delta"] = statistics.paired_delta(difference, scores.labels).to_json()
            if scores.top1 is not None and base.top1 is not None:
                value["flips"] = flips_of(base, scores)
            serving = self._serving.get(name)
            if scores.top1 is not None and serving and serving.top1 is not None and serving.hashes == scores.hashes:
                value["serving"] = flips_of(serving, scores)
        return value


def flips_of(base: Scores, scores: Scores) -> dict[str, Any]:
    """Next-token top-1 of two models on the same labels, and how many documents each lost or won (section 15)."""
    assert base.top1 is not None
    assert scores.top1 is not None
    scored = scores.labels > 0
    gained = (base.nats - scores.nats)[scored] / scores.labels[scored]
    tokens = flips.token_flips(base.top1, scores.top1, scores.labels)
    return {**tokens.to_json(), "documents": flips.smooth_flips(gained).to_json()}


def _read(path: Path) -> Scores | None:
    """Scores that were written whole; a broken cache entry is scored again."""
    try:
        return Scores.from_json(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, KeyError):
        return None


def deltas_of(look: Mapping[str, Any]) -> dict[str, tuple[Role, Delta]]:
    """Role and paired delta of each set of a look; empty for the baseline, which has nothing to be paired with."""
    return {
        name: (Role(line["role"]), Delta.from_json(line["delta"]))
        for name, line in look["sets"].items()
        if line["delta"] is not None
    }


def summary_of(sets: Mapping[str, Any]) -> dict[str, Any]:
    """`forgetting` and `gain` of a look as JSON."""
    summary = forgetting.summary(deltas_of({"sets": sets}))
    return {"forgetting": summary.forgetting.to_json(), "gain": {"mean": summary.gain}}
