"""The verdict of a finished model: over the documents that judge, beside that of the raw one."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from rewarm_trainer import statistics
from rewarm_trainer.evaluation import Scores
from rewarm_trainer.report import SetFacts
from rewarm_trainer.weights.choice import selection
from rewarm_trainer.weights.verdict import in_words, judged, judging, with_finish


def scores(shift: float, documents: int = 90) -> Scores:
    random = np.random.default_rng(4)
    labels = random.integers(5, 60, documents)
    hashes = tuple(hashlib.sha256(str(number).encode()).hexdigest() for number in range(documents))
    noise = random.normal(0, 0.1, documents) * labels
    return Scores(hashes, labels * (3.0 + shift) + noise * (1 + shift), labels, labels * 4)


def test_only_documents_that_judge_are_counted() -> None:
    base, candidate = scores(0.0), scores(-0.5)
    mask = ~selection(base.hashes)
    line = judged(base, candidate, "New", mask)
    assert line["documents"] == 60
    assert line["tokens"] == int(base.labels[mask].sum())
    expected = statistics.paired_delta((candidate.nats - base.nats)[mask], base.labels[mask])
    assert line["delta"] == expected.to_json()
    assert line["final"]["loss"] - line["baseline"]["loss"] == pytest.approx(expected.mean)
    everything = judged(base, candidate, "New", None)
    assert everything["documents"] == 90
    assert everything["delta"] != line["delta"]


def test_the_facts_of_a_set_become_those_of_the_finished_model() -> None:
    base = scores(0.0)
    before = {"a": SetFacts(role="New", documents=90, tokens=1, baseline=None, history=[])}
    found = with_finish(before, {"a": judged(base, scores(-0.5), "New", None)})["a"]
    assert found.verdict == "Win"
    assert found.baseline is not None
    assert found.baseline.loss == base.loss
    assert found.history == []


def test_results_by_document_lose_those_that_chose() -> None:
    base = scores(0.0)
    kept = judging({**base.to_json(), "dates": [None] * 90, "label_values": []})
    mask = ~selection(base.hashes)
    assert kept["hashes"] == [text for text, judges in zip(base.hashes, mask, strict=True) if judges]
    assert len(kept["nats"]) == len(kept["dates"]) == 60
    assert kept["label_values"] == []


def test_words_say_what_was_done_and_what_the_last_checkpoint_showed() -> None:
    base = scores(0.0)
    steps = [
        {"kind": "average", "average": "EMA", "inputs": [{}, {}, {}]},
        {"kind": "soup", "soup": "Greedy", "inputs": [{"label": "a"}, {"label": "b"}]},
        {"kind": "interpolate", "towardsBase": 0.35, "chosen": "Auto", "inputs": []},
        {"kind": "instructResidual", "inputs": [{}, {"label": "instruct"}, {"label": "base"}]},
    ]
    raw = {"sets": {"a": judged(base, scores(-0.5), "New", None), "b": judged(base, scores(0, 90), "Retained", None)}}
    first, second, third = in_words({"steps": steps, "raw": raw, "selection": {"a": 30}})
    assert first == (
        "the verdict is that of the finished model: EMA of the last 3 checkpoints, then greedy soup of a, b, then 0.35 "
        "of the way back to the base (chosen on the selection split), then plus what instruction tuning changed in base"
    )
    assert second.startswith("the last checkpoint itself, on the same documents: a -0.")
    assert third == "documents that chose (30 of a) are not among those that judge"
