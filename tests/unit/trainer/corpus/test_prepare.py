"""Preparation as a whole: what two people must compute alike, and what is found again."""

from __future__ import annotations

import json
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewarm_api.errors import DataError, ManifestError
from rewarm_api.frozen import digest_of
from rewarm_trainer.corpus.prepare import check_embedding
from rewarm_trainer.corpus.sets import open_set
from rewarm_trainer.corpus.shards import Index, verify
from rewarm_trainer.corpus.source import open_source
from rewarm_trainer.corpus.tokenizer import TokenizerHandle


def by_key(texts: list[str]) -> list[str]:
    return sorted(texts, key=lambda text: sha256(b"rewarm-heldout-v1" + text.encode()).digest())


def stream_of(folder: Path) -> list[int]:
    source = open_source(folder, "any", 1)
    return source.slice(0, source.tokens).tolist()


def inodes(cache: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in cache.rglob("*.bin")}


def test_rows_sets_and_digests_follow_the_definitions(bench: Any, tokenizer: TokenizerHandle, texts: Any) -> None:
    prepared = bench.prepare(tokenizer=tokenizer)
    new = texts(120, seed=1)
    held_out = by_key(new)[:8]
    training = [text for text in new if text not in held_out]
    expected = [token for ids in tokenizer.encode_batch(training) for token in [*ids, tokenizer.eos]]
    assert stream_of(prepared.source_folders["new"]) == expected
    pin = prepared.pins.sources["new"]
    assert (pin.documents, pin.held_out_documents, pin.duplicates, pin.bad_lines) == (112, 8, 0, 0)
    assert (pin.tokens, pin.rows) == (len(expected), (len(expected) - 1) // 16)
    assert pin.dropped_tokens == len(expected) - pin.rows * 16 - 1
    assert pin.weight == pin.rows
    digest = sha256((bench.root / "new.jsonl").read_bytes()).hexdigest()
    assert pin.digest == digest_of([["new.jsonl", digest]])
    documents = prepared.sets()["new"]
    assert [ids.tolist() for ids in documents.ids] == tokenizer.encode_batch(held_out)
    assert documents.bytes == [len(text.encode()) for text in held_out]
    assert documents.hashes == [sha256(text.encode()).hexdigest() for text in held_out]
    joined = b"".join(bytes.fromhex(each) for each in documents.hashes)
    assert prepared.pins.sets["new"].digest == "sha256:" + sha256(joined).hexdigest()


def test_index_says_what_the_shards_are(bench: Any, tokenizer: TokenizerHandle) -> None:
    sources = [{"name": "new", "uri": "new.jsonl", "license": "CC0-1.0"}]
    prepared = bench.prepare(tokenizer=tokenizer, corpus={"sources": sources})
    folder, pin = prepared.source_folders["new"], prepared.pins.sources["new"]
    index = json.loads((folder / "index.json").read_text())
    assert index["rows"] == pin.rows
    assert (index["documents"], index["tokens"], index["dtype"]) == (pin.documents, pin.tokens, "uint16")
    assert (index["tokenizer"], index["license"]) == (tokenizer.fingerprint, "CC0-1.0")
    assert index["digest"] == pin.digest
    assert [shard["sha256"] for shard in index["shards"]] == [
        sha256((folder / shard["file"]).read_bytes()).hexdigest() for shard in index["shards"]
    ]
    verify(folder)


def test_the_same_text_is_found_again(bench: Any, tokenizer: TokenizerHandle) -> None:
    first = bench.prepare(tokenizer=tokenizer)
    before = inodes(bench.cache)
    bench.messages.clear()
    (bench.root / "moved").mkdir()
    shutil.move(bench.root / "new.jsonl", bench.root / "moved" / "other-name.jsonl")
    sources = [{"name": "renamed", "uri": "moved/*.jsonl", "license": "MIT"}]
    again = bench.prepare(tokenizer=tokenizer, corpus={"sources": sources})
    assert again.source_folders["renamed"] == first.source_folders["new"]
    assert again.set_folders["renamed"] == first.set_folders["new"]
    assert inodes(bench.cache) == before
    assert {stage for stage, *_ in bench.messages} == {"scan"}
    assert Index.read(again.source_folders["renamed"]).license == "MIT"


def test_how_text_is_spread_over_files_and_packed_does_not_matter(
    bench: Any, tokenizer: TokenizerHandle, texts: Any, lines: Any
) -> None:
    whole = bench.prepare(tokenizer=tokenizer)
    new = texts(120, seed=1)
    for number in range(3):
        lines(bench.root / f"parts/{number}.jsonl", new[number * 40 : number * 40 + 40])
    parts = bench.prepare(tokenizer=tokenizer, corpus={"sources": [{"name": "new", "uri": "parts/*.jsonl"}]})
    assert parts.source_folders == whole.source_folders
    assert parts.pins.sources["new"].digest != whole.pins.sources["new"].digest


def test_hold_out_knows_neither_seed_nor_ratio_nor_tokenizer(bench: Any, tokenizer: TokenizerHandle) -> None:
    base = bench.prepare(tokenizer=tokenizer).pins.sets
    training = {"sequenceLength": 8, "globalBatchTokens": 64, "seed": 5}
    other = bench.prepare(
        replay={"ratio": 0, "sources": [{"name": "old", "uri": "old.jsonl"}]}, training=training
    ).pins.sets
    assert {name: pin.digest for name, pin in other.items()} == {name: pin.digest for name, pin in base.items()}
    assert other["old"].documents == 8


def test_duplicates_are_dropped_and_counted(bench: Any, tokenizer: TokenizerHandle, texts: Any, lines: Any) -> None:
    clean = bench.prepare(tokenizer=tokenizer)
    new = texts(120, seed=1)
    lines(bench.root / "new.jsonl", [*new, *new[:7], new[0]])
    prepared = bench.prepare(tokenizer=tokenizer)
    assert prepared.pins.sources["new"].duplicates == 8
    assert prepared.source_folders == clean.source_folders


def test_groups_stay_on_one_side(bench: Any, tokenizer: TokenizerHandle, texts: Any) -> None:
    new = texts(120, seed=1)
    rows = [{"text": text, "origin": number // 3} for number, text in enumerate(new)]
    (bench.root / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [{"name": "new", "uri": "new.jsonl", "groupField": "origin"}]
    hashes = bench.prepare(tokenizer=tokenizer, corpus={"sources": sources}).sets()["new"].hashes
    held_out = [number for number, text in enumerate(new) if sha256(text.encode()).hexdigest() in hashes]
    assert len(held_out) == 9
    assert all({number // 3 * 3 + other for other in range(3)} <= set(held_out) for number in held_out)


def test_bos_stands_before_each_document(bench: Any, tokenizer: TokenizerHandle) -> None:
    with_bos = TokenizerHandle(tokenizer.folder, tokenizer.rules, tokenizer.eos, 5)
    plain, framed = (bench.prepare(tokenizer=each) for each in (tokenizer, with_bos))
    assert framed.pins.tokenizer == plain.pins.tokenizer
    assert framed.pins.sources["new"].tokens == plain.pins.sources["new"].tokens + 112
    stream = stream_of(framed.source_folders["new"])
    assert stream[0] == 5
    assert all(stream[at + 1] == 5 for at, token in enumerate(stream[:-1]) if token == tokenizer.eos)
    assert framed.set_folders == plain.set_folders


def test_a_scratch_tokenizer_is_trained_on_training_text_only(bench: Any, texts: Any, lines: Any) -> None:
    """Held-out documents with letters of their own leave the vocabulary as it is."""
    new = texts(120, seed=1)
    before = bench.prepare().tokenizer
    held_out = by_key(new)[:8]
    kept = [text for text in new if text not in held_out]
    from rewarm_trainer.corpus.tokenizer import train_tokenizer

    old = texts(90, seed=2)
    old_kept = [text for text in old if text not in by_key(old)[:8]]
    train_tokenizer([*kept, *old_kept], 300, bench.root / "direct")
    assert TokenizerHandle.load(bench.root / "direct").fingerprint == before.fingerprint
    zero = bench.prepare(replay={"ratio": 0, "sources": [{"name": "old", "uri": "old.jsonl"}]}).tokenizer
    assert zero.fingerprint == before.fingerprint


def test_a_scratch_model_may_bring_its_tokenizer(bench: Any, tokenizer: TokenizerHandle) -> None:
    tokenizer.save(bench.root / "tok")
    base = {"scratch": {"config": {"model_type": "llama"}, "tokenizer": {"file": "./tok"}}}
    assert bench.prepare(baseModel=base).pins.tokenizer == tokenizer.fingerprint


def test_text_and_parquet(bench: Any, tokenizer: TokenizerHandle, texts: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    whole = bench.prepare(tokenizer=tokenizer)
    table = pyarrow.table({"body": texts(120, seed=1)})
    pyarrow.parquet.write_table(table, bench.root / "new.parquet")
    for number, text in enumerate(texts(90, seed=2)):
        (bench.root / f"old/{number:03d}.txt").parent.mkdir(exist_ok=True)
        (bench.root / f"old/{number:03d}.txt").write_text(text)
    prepared = bench.prepare(
        tokenizer=tokenizer,
        corpus={"sources": [{"name": "new", "uri": "new.parquet", "textField": "body"}]},
        replay={"ratio": 0.25, "sources": [{"name": "old", "uri": "old/*.txt"}]},
    )
    assert prepared.source_folders == whole.source_folders
    assert prepared.set_folders == whole.set_folders


def test_a_budget_in_epochs_counts_corpus_rows(bench: Any, tokenizer: TokenizerHandle) -> None:
    prepared = bench.prepare(tokenizer=tokenizer, budget={"epochs": 2})
    rows, plan = prepared.pins.sources["new"].rows, prepared.pins.plan
    assert plan.requested_tokens == -(-(2 * rows * 16 * 4) // 3)
    assert plan.tokens == -(-plan.requested_tokens // 256) * 256
    assert prepared.pins.sources["new"].repeats == pytest.approx(2, rel=0.01)


def test_replay_that_repeats_is_announced_and_too_much_is_refused(bench: Any, tokenizer: TokenizerHandle) -> None:
    rows = bench.prepare(tokenizer=tokenizer).pins.sources["old"].rows
    warned = bench.prepare(tokenizer=tokenizer, budget={"tokens": rows * 16 * 4 * 2})
    assert any("repeats replay source 'old' 2.0" in warning for warning in warned.warnings)
    with pytest.raises(ManifestError) as caught:
        bench.prepare(tokenizer=tokenizer, budget={"tokens": rows * 16 * 4 * 5})
    (problem,) = caught.value.problems
    assert (problem.field, problem.found) == ("spec.replay.maxRepeats", "4")
    assert "'old' 5.0" in problem.expected


def test_sets_with_a_text_of_their_own_keep_its_order(bench: Any, tokenizer: TokenizerHandle, texts: Any) -> None:
    own = texts(20, seed=7)
    rows = [{"body": text, "topic": f"t{number % 2}", "day": number} for number, text in enumerate(own)]
    (bench.root / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"name": "eval", "role": "Retained", "uri": "eval.jsonl", "textField": "body"}
    sets = [{"name": "new", "role": "New"}, {**given, "labelField": "topic", "dateField": "day"}]
    prepared = bench.prepare(tokenizer=tokenizer, evaluation={"sets": sets})
    documents = prepared.sets()["eval"]
    assert documents.hashes == [sha256(text.encode()).hexdigest() for text in own]
    assert (documents.labels[:3], documents.dates[:2]) == (["t0", "t1", "t0"], ["0", "1"])
    assert prepared.pins.sets["eval"].tokens == sum(map(len, tokenizer.encode_batch(own)))
    assert set(prepared.pins.sets) == {"new", "eval"}


def test_a_source_whose_set_has_its_own_text_trains_on_everything(
    bench: Any, tokenizer: TokenizerHandle, texts: Any, lines: Any
) -> None:
    lines(bench.root / "eval.jsonl", texts(20, seed=7))
    sets = [{"name": "old", "role": "Retained", "uri": "eval.jsonl"}]
    pins = bench.prepare(tokenizer=tokenizer, evaluation={"sets": sets}).pins
    assert pins.sources["old"].held_out_documents == 0
    assert pins.sources["old"].documents == 90
    assert pins.sources["new"].held_out_documents > 0


def test_ids_outside_the_embedding_are_65(bench: Any, tokenizer: TokenizerHandle) -> None:
    prepared = bench.prepare(tokenizer=tokenizer)
    check_embedding(prepared, 300)
    largest = max(Index.read(folder).largest_id for folder in prepared.source_folders.values())
    with pytest.raises(DataError, match=rf"holds token id \d+, the model's embedding has rows 0 to {largest - 1}"):
        check_embedding(prepared, largest)


def test_preparation_never_imports_torch(bench: Any, tmp_path: Path) -> None:
    import os
    import subprocess

    (tmp_path / "run.json").write_text(json.dumps(bench.manifest()))
    program = (
        "import sys, pathlib; from rewarm_api.manifest import read_manifest; from rewarm_api.validate import validate\n"
        "from rewarm_api.resolve import resolve; from rewarm_trainer.corpus.prepare import prepare\n"
        "import rewarm_trainer.storage\n"
        "root = pathlib.Path(sys.argv[1]); run = validate(read_manifest(root / 'run.json'), local=True).run\n"
        "prepare(resolve(run, uid='u'), root=root, cache=root / 'cache', tokenizer=None)\n"
        "assert not {'torch', 'transformers', 'boto3', 'datasets'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment)


def test_shards_are_little_endian(bench: Any, tokenizer: TokenizerHandle) -> None:
    prepared = bench.prepare(tokenizer=tokenizer)
    folder = prepared.source_folders["new"]
    raw = np.frombuffer((folder / "00000.bin").read_bytes(), dtype="<u2")
    assert raw.tolist() == stream_of(folder)
    assert open_set(prepared.set_folders["new"]).ids[0].dtype.itemsize == 2
