"""Scores of documents and of the rows that they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewarm_api.errors import DataError
from rewarm_trainer.corpus.scores import open_scores, row_scores
from rewarm_trainer.corpus.shards import Index, ShardWriter, write_index
from rewarm_trainer.corpus.source import TokenSource, open_source

EOS = 0


def stream(folder: Path, lengths: list[int], length: int) -> TokenSource:
    """Documents of these lengths (EOS included), in shards of 7 tokens."""
    folder.mkdir()
    with ShardWriter(folder, "uint16", shard_tokens=7) as writer:
        for number, size in enumerate(lengths, start=1):
            writer.write(np.array([number] * (size - 1) + [EOS]))
    index = Index("uint16", "t", EOS, None, len(lengths), sum(lengths), writer.largest_id, tuple(writer.shards))
    write_index(folder, index)
    return open_source(folder, "a", length)


def test_a_row_has_the_mean_score_of_its_tokens(tmp_path: Path) -> None:
    lengths, scores = [3, 1, 6, 5, 4], np.array([1.0, 8.0, -2.0, 0.5, 3.0])
    source = stream(tmp_path / "s", lengths, 4)
    by_token = np.repeat(scores, lengths)
    expected = [by_token[4 * row : 4 * row + 4].mean() for row in range(source.rows)]
    assert row_scores(source, scores) == pytest.approx(expected, abs=1e-12)


def test_another_number_of_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 2 documents, 3 are scored"):
        row_scores(stream(tmp_path / "s", [5, 5], 4), np.zeros(3))


def prepared(tmp_path: Path, records: list[dict[str, Any]], order_by: str = "quality") -> Any:
    from rewarm_api.resolve import resolve
    from rewarm_api.validate import validate
    from rewarm_trainer.corpus.prepare import prepare

    (tmp_path / "new.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    document = {
        "apiVersion": "rewarm.dev/v1alpha1",
        "kind": "ContinualRun",
        "metadata": {"name": "demo"},
        "spec": {
            "baseModel": {"scratch": {"config": {"model_type": "llama"}, "tokenizer": {"vocabularySize": 300}}},
            "corpus": {"sources": [{"name": "new", "uri": "new.jsonl", "license": "MIT"}]},
            "schedule": {"kind": "Constant", "peakLearningRate": 1e-3},
            "budget": {"tokens": 256},
            "training": {"sequenceLength": 8, "globalBatchTokens": 64},
            "evaluation": {"heldOut": {"minimumDocuments": 4}},
            "phases": [{"name": "all", "share": "100%", "order": "Ascending", "orderBy": order_by}],
        },
    }
    validation = validate(document, local=True)
    assert validation.run is not None, validation.problems
    assert validation.warnings == ()
    return prepare(resolve(validation.run, uid="u"), root=tmp_path, cache=tmp_path / "cache", tokenizer=None)


def test_scores_stand_in_the_order_of_the_training_documents(tmp_path: Path) -> None:
    records = [{"text": f"document number {number}", "quality": number / 2} for number in range(40)]
    records.insert(5, {**records[4], "quality": 99})  # a duplicate is dropped, with its score
    found = prepared(tmp_path, records)
    address = found.pins.sources["new"].scores["quality"]
    scores = open_scores(address, tmp_path / "cache")
    source = open_source(found.source_folders["new"], "new", 8)
    tokens = source.slice(0, source.tokens)
    texts = [
        found.tokenizer.decode(part[part != found.pins.eos].tolist())
        for part in np.split(tokens, np.flatnonzero(tokens == found.pins.eos) + 1)
        if len(part)
    ]
    assert texts == [f"document number {int(score * 2)}" for score in scores]
    assert len(scores) == found.pins.sources["new"].documents < 40


@pytest.mark.parametrize(("value", "found"), [(None, "nothing"), ("good", "'good'"), (float("nan"), "'nan'")])
def test_a_document_without_a_finite_score_is_refused(tmp_path: Path, value: Any, found: str) -> None:
    records = [{"text": f"document number {number}", "quality": 1} for number in range(40)]
    for record in records[20:]:
        record["quality"] = value  # type: ignore[assignment]
    with pytest.raises(DataError, match=rf"has {found} in the column 'quality', expected a finite number"):
        prepared(tmp_path, records)
