"""Two runs, or a run and a model, paired per document: delta, interval and verdict per set.

Judges these two checkpoints, not their recipes: seed noise is not in a document interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rewarm_api.errors import DataError, MissingInputError
from rewarm_api.pins import Pins
from rewarm_api.snapshot import Snapshot
from rewarm_trainer import statistics
from rewarm_trainer.compare_tasks import compare_benchmarks
from rewarm_trainer.workdir import WorkFolder, read_snapshot

Scored = Mapping[str, Mapping[str, Any]]
"""Per set: role, hashes, nats, labels and bytes of each document."""


def compare(first: Path, second: Path) -> dict[str, Any]:
    """`second` minus `first` on every set that both were scored on; below zero, the second is better.

    Each is the work folder of a finished run or a Hugging Face model folder; a model is scored on the sets of the run.
    """
    runs = {path: _final(path) for path in (first, second) if WorkFolder(path).snapshot.exists()}
    if not runs:
        for path in (first, second):
            if not path.is_dir():
                raise MissingInputError(f"{path}: no such folder; give the work folder of a run, or a model folder")
        raise MissingInputError(
            f"{first}: not a run (no snapshot.json), and neither is {second}; one of the two must be a run: "
            "its held-out documents are what both are scored on"
        )
    reference = next(iter(runs))
    one, two = (runs[path] if path in runs else _score(path, reference) for path in (first, second))
    names = sorted(one.keys() & two.keys())
    tasks = compare_benchmarks(first, second, reference)
    if not names:
        raise DataError(
            f"{first} and {second} share no evaluation set: {sorted(one)} and {sorted(two)}; "
            "compare runs with sets of the same name"
        )
    sets = {name: _pair(one[name], two[name]) for name in names}
    return {"first": str(first), "second": str(second), "sets": sets, "benchmarks": tasks}


def _final(path: Path) -> dict[str, dict[str, Any]]:
    """The final per-document results of a run."""
    work = WorkFolder(path)
    snapshot, pins = read_snapshot(work), Pins.model_validate_json(work.pins.read_text())
    result = {}
    for chosen in pins.evaluation_sets(snapshot):
        file = work.state / "final" / f"{chosen.name}.json"
        if not file.exists():
            raise MissingInputError(f"{path}: no final evaluation of {chosen.name}; let that run finish first")
        result[chosen.name] = {"role": str(chosen.role), **json.loads(file.read_text())}
    return result


def _pair(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    """Documents that both scored, by hash. Different tokenizers are compared in nats per byte."""
    place = {digest: number for number, digest in enumerate(one["hashes"])}
    pairs = [(place[digest], number) for number, digest in enumerate(two["hashes"]) if digest in place]
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    labels, other = np.array(one["labels"])[left], np.array(two["labels"])[right]
    same_tokens = bool((labels == other).all())
    weights = labels if same_tokens else np.array(one["bytes"])[left]
    nats = np.array(one["nats"])[left], np.array(two["nats"])[right]
    delta = statistics.paired_delta(nats[1] - nats[0], weights)
    total, size = max(1, int(weights.sum())), max(1, int(np.array(one["bytes"])[left].sum()))
    first, second = (
        {"loss": float(each.sum()) / total, "bits_per_byte": float(each.sum()) / (math.log(2) * size)} for each in nats
    )
    return {
        "role": two["role"] or one["role"],
        "documents": len(pairs),
        "unit": "nats per token" if same_tokens else "nats per byte",
        "first": first,
        "second": second,
        "delta": delta.to_json(),
        "verdict": statistics.verdict(delta),
        "flips": _flips(one, two, left, right) if same_tokens and "top1" in one and "top1" in two else None,
    }


def _flips(one: Mapping[str, Any], two: Mapping[str, Any], left: Any, right: Any) -> dict[str, Any]:
    """Next-token top-1 on the documents that both scored."""
    from rewarm_trainer.evaluation import Scores
    from rewarm_trainer.looks import flips_of

    return flips_of(Scores.from_json(dict(one)).chosen(left), Scores.from_json(dict(two)).chosen(right))


def _score(folder: Path, reference: Path) -> dict[str, dict[str, Any]]:
    """A model folder scored on the held-out documents of a run, as that run scored them."""
    from rewarm_trainer.base import folder_digest
    from rewarm_trainer.corpus.sets import open_set
    from rewarm_trainer.corpus.tokenise import folder_of
    from rewarm_trainer.corpus.tokenizer import TokenizerHandle
    from rewarm_trainer.run import cache_folder

    folder_digest(folder)
    work = WorkFolder(reference)
    snapshot, pins = read_snapshot(work), Pins.model_validate_json(work.pins.read_text())
    handle = TokenizerHandle.load(folder, snapshot.training.document_start)
    if handle.fingerprint != pins.tokenizer:
        raise DataError(
            f"{folder}: its tokenizer {handle.fingerprint[:19]} is not that of {reference} ({pins.tokenizer[:19]}); "
            "continue that model with rewarm run and compare the two runs, which goes by bytes"
        )
    scorer = scorer_of(folder, snapshot, pins)
    cache = cache_folder(snapshot.cache_uri, work.root)
    result = {}
    for chosen in pins.evaluation_sets(snapshot):
        documents = open_set(folder_of(pins.sets[chosen.name].prepared, "sets", cache), chosen.name)
        scores = scorer.score(documents, None, None)
        result[chosen.name] = {"role": str(chosen.role), **scores.to_json()}
    return result


def scorer_of(folder: Path, snapshot: Snapshot, pins: Pins) -> Any:
    """What scores the model of a folder as a run scored its own."""
    """What scores a model folder as a run scored its own."""
    import torch

    from rewarm_trainer import model as models
    from rewarm_trainer.looks import Scorer
    from rewarm_trainer.session import EVALUATION_BATCH_TOKENS

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    losses = models.TokenLosses(models.load_model(folder)).to(device)
    return Scorer(
        losses=losses,
        bos=pins.bos,
        eos=pins.eos,
        length=snapshot.training.sequence_length,
        batch_tokens=EVALUATION_BATCH_TOKENS,
        precision=models.precision_for(snapshot.training.precision, device),
        rank=0,
        world=1,
    )
