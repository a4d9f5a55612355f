"""Subsets of a source: their size, their order, what they never touch, and that they are pinned."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_api.errors import DataError
from rewarm_trainer.corpus.readers import Document, Fields
from rewarm_trainer.corpus.readers.base import Broken
from rewarm_trainer.corpus.records import DUPLICATE, HELD_OUT, LEFT_OUT, TRAIN, as_records, record_of
from rewarm_trainer.corpus.subset import SubsetRule, leave_out

TEXTS = st.lists(st.text("abc é", min_size=1, max_size=30), min_size=1, max_size=60, unique=True)


def kept_by(texts: list[str], rule: SubsetRule, scores: list[float] | None = None) -> list[int]:
    """Positions that stay in training."""
    pieces = [as_records(b"".join(record_of(Document(text)) for text in texts))]
    mask = np.full(len(texts), TRAIN, dtype=np.uint8)
    left = leave_out(pieces, mask, rule, None if scores is None else np.array(scores))
    assert left == np.count_nonzero(mask == LEFT_OUT)
    return np.flatnonzero(mask == TRAIN).tolist()


@settings(deadline=None)
@given(TEXTS, st.sampled_from([Fraction(1, 100), Fraction(1, 4), Fraction(1, 2), Fraction(1)]))
def test_a_random_subset_is_the_smallest_digests_that_fill_its_share(texts: list[str], share: Fraction) -> None:
    order = sorted(texts, key=lambda text: sha256(text.encode()).hexdigest())
    wanted, size = [], 0
    for text in order:
        if size >= share * sum(len(each.encode()) for each in texts):
            break
        wanted.append(text)
        size += len(text.encode())
    assert sorted(texts[at] for at in kept_by(texts, SubsetRule(share, None, "Random"))) == sorted(wanted)


@settings(deadline=None)
@given(TEXTS, st.randoms(use_true_random=False))
def test_a_random_subset_knows_no_order_of_files_and_holds_the_smaller_ones(texts: list[str], random: Any) -> None:
    def kept(texts: list[str], share: Fraction) -> set[str]:
        return {texts[at] for at in kept_by(texts, SubsetRule(share, None, "Random"))}

    shuffled = random.sample(texts, len(texts))
    assert kept(texts, Fraction(1, 3)) == kept(shuffled, Fraction(1, 3))
    assert kept(texts, Fraction(1, 5)) <= kept(texts, Fraction(1, 3)) <= kept(texts, Fraction(1)) == set(texts)


def test_the_best_or_the_lowest_scores_come_first() -> None:
    texts = ["a" * 40, "b" * 40, "c" * 40, "d" * 40]
    scores = [0.1, -3.0, 7.5, 2.0]
    assert kept_by(texts, SubsetRule(Fraction(1, 2), None, "HighestScore"), scores) == [2, 3]
    assert kept_by(texts, SubsetRule(Fraction(1, 2), None, "LowestScore"), scores) == [0, 1]
    assert kept_by(texts, SubsetRule(None, 11, "HighestScore"), scores) == [2, 3], "11 tokens are 44 bytes"
    assert kept_by(texts, SubsetRule(None, 10, "HighestScore"), scores) == [2]
    equal = kept_by(texts, SubsetRule(Fraction(1, 2), None, "HighestScore"), [1.0] * 4)
    assert equal == kept_by(texts, SubsetRule(Fraction(1, 2), None, "Random")), "equal scores: by digest"


def test_held_out_and_duplicate_documents_are_neither_counted_nor_touched() -> None:
    texts = ["a" * 40, "b" * 40, "c" * 40, "d" * 40]
    pieces = [as_records(b"".join(record_of(Document(text)) for text in texts))]
    mask = np.array([HELD_OUT, TRAIN, DUPLICATE, TRAIN], dtype=np.uint8)
    assert leave_out(pieces, mask, SubsetRule(Fraction(1, 2), None, "HighestScore"), np.array([9.0, 1, 8, 2])) == 1
    assert mask.tolist() == [HELD_OUT, LEFT_OUT, DUPLICATE, TRAIN]


@pytest.mark.parametrize("value", [None, "0.5", True, float("nan"), [1], "missing"])
def test_a_document_without_a_score_is_broken(value: Any) -> None:
    record = {"text": "a"} if value == "missing" else {"text": "a", "score": value}
    found = Fields(score="score").document(record, 7)
    assert isinstance(found, Broken)
    assert found.line == 7
    assert "expected a finite number as its score" in found.reason
    assert Fields(score="score").document({"text": "a", "score": 2}, 1) == Document("a", score=2.0)


def corpus(root: Path, texts: list[str]) -> dict[str, Any]:
    lines = [json.dumps({"text": text, "score": number}) + "\n" for number, text in enumerate(texts)]
    (root / "scored.jsonl").write_text("".join(lines))
    return {"name": "new", "uri": "scored.jsonl", "scoreField": "score"}


def test_preparation_trains_on_the_subset_and_judges_on_the_whole(bench, texts):
    source = corpus(bench.root, texts(200, seed=9))
    plain = {key: value for key, value in source.items() if key != "scoreField"}
    whole = bench.prepare(corpus={"sources": [plain]})
    best = bench.prepare(corpus={"sources": [{**source, "subset": {"share": "25%", "by": "HighestScore"}}]})
    pin, all_of_it = best.pins.sources["new"], whole.pins.sources["new"]
    assert best.pins.sets["new"].digest == whole.pins.sets["new"].digest, "the same held-out documents"
    assert pin.documents + pin.left_out == all_of_it.documents
    assert all_of_it.left_out == 0
    assert "leftOut" not in all_of_it.to_json()
    assert pin.tokens == pytest.approx(all_of_it.tokens / 4, rel=0.1)
    assert pin.prepared != all_of_it.prepared
    assert pin.weight == pin.rows
    source_of_best = best.sources()["new"]
    trained = best.tokenizer._backend.decode(source_of_best.slice(0, source_of_best.tokens).tolist())
    scores = [int(number) for number in re.findall(r"9-(\d+) ", trained)]
    assert len(scores) == pin.documents
    assert min(scores) >= 140, "only documents of a high score"
    random = bench.prepare(corpus={"sources": [{**plain, "subset": {"share": "25%"}}]})
    assert random.pins.sources["new"].prepared not in (pin.prepared, all_of_it.prepared)


def test_a_subset_that_is_everything_is_said(bench):
    everything = {"name": "new", "uri": "new.jsonl", "subset": {"tokens": "10M"}}
    found = bench.prepare(corpus={"sources": [everything]})
    assert any("its subset is all of it" in warning for warning in found.warnings)


def test_a_broken_score_names_its_line(bench):
    (bench.root / "bad.jsonl").write_text('{"text": "fine", "score": 1}\n{"text": "odd", "score": "good"}\n')
    source = {"name": "new", "uri": "bad.jsonl", "scoreField": "score", "subset": {"share": "50%", "by": "LowestScore"}}
    with pytest.raises(DataError, match=r"line 2: field 'score' is 'good', expected a finite number as its score"):
        bench.prepare(corpus={"sources": [source]})
