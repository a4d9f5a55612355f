"""Bad text and contradicting pins: exit code and message of each (issue 3, "Bad input")."""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from rewarm_api.errors import DataError, DependencyError, ManifestError, MissingInputError, RewarmError
from rewarm_api.frozen import digest_of
from rewarm_trainer.corpus.tokenizer import TokenizerHandle, train_tokenizer


def refusal(bench: Any, kind: type[RewarmError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        bench.prepare(**options)
    return str(caught.value)


def source(**more: Any) -> dict[str, Any]:
    return {"sources": [{"name": "new", "uri": "new.jsonl", **more}]}


def damage(path: Path, *numbers: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for number in numbers:
        lines[number - 1] = b'{"text": "\xff\xfe"}\n'
    path.write_bytes(b"".join(lines))


def test_an_undecodable_line_is_named(bench: Any, tokenizer: TokenizerHandle) -> None:
    damage(bench.root / "new.jsonl", 17)
    message = refusal(bench, DataError, tokenizer=tokenizer)
    assert f"{bench.root}/new.jsonl, line 17: not UTF-8" in message
    assert "badLines: 0" in message


def test_lines_are_tolerated_up_to_the_limit_over_all_files(
    bench: Any, tokenizer: TokenizerHandle, texts: Any, lines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        damage(lines(bench.root / f"parts/{number}.jsonl", texts(40, seed=number)), 5)
    sources = {"sources": [{"name": "new", "uri": "parts/*.jsonl", "badLines": 3}]}
    with caplog.at_level(logging.WARNING):
        pin = bench.prepare(tokenizer=tokenizer, corpus=sources).pins.sources["new"]
    assert pin.bad_lines == 3
    assert pin.documents + pin.held_out_documents == 117
    assert [f"{number}.jsonl, line 5" in caplog.text for number in range(3)] == [True, True, True]
    sources["sources"][0]["badLines"] = 2
    message = refusal(bench, DataError, tokenizer=tokenizer, corpus=sources)
    assert f"{bench.root}/parts/2.jsonl, line 5" in message


def test_a_broken_parquet_is_named(bench: Any, tokenizer: TokenizerHandle) -> None:
    (bench.root / "bad.parquet").write_bytes(b"PAR1 this is no Parquet PAR1")
    message = refusal(bench, DataError, tokenizer=tokenizer, corpus=source(uri="bad.parquet", badLines=100))
    assert f"{bench.root}/bad.parquet: row 1: cannot be read as Parquet" in message


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_corpus_is_65(bench: Any, tokenizer: TokenizerHandle, content: bytes) -> None:
    (bench.root / "new.jsonl").write_bytes(content)
    assert "source 'new' is empty: found 0 documents in 1 file(s)" in refusal(bench, DataError, tokenizer=tokenizer)


def test_a_missing_glob_is_66(bench: Any, tokenizer: TokenizerHandle) -> None:
    message = refusal(bench, MissingInputError, tokenizer=tokenizer, corpus=source(uri="parts/*.jsonl"))
    assert "parts/*.jsonl: no file matches" in message


def test_less_than_one_row_is_65_with_numbers(bench: Any, tokenizer: TokenizerHandle) -> None:
    (bench.root / "new.jsonl").write_text('{"text": "ka"}\n')
    message = refusal(bench, DataError, tokenizer=tokenizer)
    tokens = len(tokenizer.encode_batch(["ka"])[0]) + 1
    assert f"source 'new': found {tokens} tokens of training text in 1 documents, expected at least 17" in message


def test_a_changed_corpus_under_the_same_pin_is_65(bench: Any, tokenizer: TokenizerHandle, lines: Any) -> None:
    pinned = bench.prepare(tokenizer=tokenizer).pins.sources["new"].digest
    bench.prepare(tokenizer=tokenizer, corpus=source(digest=pinned))
    lines(bench.root / "new.jsonl", ["another text " * 20] * 30)
    found = digest_of([["new.jsonl", sha256((bench.root / "new.jsonl").read_bytes()).hexdigest()]])
    message = refusal(bench, DataError, tokenizer=tokenizer, corpus=source(digest=pinned))
    assert "source 'new'" in message
    assert pinned in message
    assert found in message


def test_pins_of_an_earlier_preparation_bind(
    bench: Any, tokenizer: TokenizerHandle, texts: Any, tmp_path: Path
) -> None:
    pins = bench.prepare(tokenizer=tokenizer).pins
    assert bench.prepare(tokenizer=tokenizer, pins=pins).pins == pins
    train_tokenizer(texts(60, seed=8), 300, tmp_path / "other")
    other = TokenizerHandle.load(tmp_path / "other")
    message = refusal(bench, DataError, tokenizer=other, pins=pins)
    assert pins.tokenizer in message
    assert other.fingerprint in message
    with (bench.root / "old.jsonl").open("a") as stream:
        stream.write('{"text": "one more"}\n')
    assert pins.sources["old"].digest in refusal(bench, DataError, tokenizer=tokenizer, pins=pins)


def test_evaluation_text_in_training_text_is_65(bench: Any, tokenizer: TokenizerHandle, texts: Any, lines: Any) -> None:
    trained = [text for text in texts(90, seed=2) if text not in held_out_of(bench, tokenizer, texts(90, seed=2))]
    lines(bench.root / "eval.jsonl", [*texts(20, seed=7), *trained[:3]])
    sets = [{"name": "eval", "role": "Retained", "uri": "eval.jsonl"}]
    message = refusal(bench, DataError, tokenizer=tokenizer, evaluation={"sets": sets})
    expected = "evaluation set 'eval': 3 of its documents stand in the training text of source 'old'"
    assert expected in message
    assert "'new'" not in message


def held_out_of(bench: Any, tokenizer: TokenizerHandle, candidates: list[str]) -> list[str]:
    hashes = bench.prepare(tokenizer=tokenizer, evaluation=None).sets()["old"].hashes
    return [text for text in candidates if sha256(text.encode()).hexdigest() in hashes]


def test_held_out_text_in_another_source_is_a_warning(
    bench: Any, tokenizer: TokenizerHandle, texts: Any, lines: Any
) -> None:
    """A small source holds out a larger share than a large one, so some of its held-out texts are trained on there."""
    lines(bench.root / "new.jsonl", texts(40, seed=1))
    hashes = bench.prepare(tokenizer=tokenizer).sets()["new"].hashes
    leaked = [text for text in texts(40, seed=1) if sha256(text.encode()).hexdigest() in hashes]
    lines(bench.root / "old.jsonl", [*texts(150, seed=2), *leaked])
    warnings = bench.prepare(tokenizer=tokenizer).warnings
    assert any("held out of source 'new' stand in the training text of source 'old'" in each for each in warnings)


def test_a_missed_minimum_is_a_warning(bench: Any, tokenizer: TokenizerHandle) -> None:
    warnings = bench.prepare(tokenizer=tokenizer, evaluation={"heldOut": {"minimumDocuments": 64}}).warnings
    assert any("source 'new': held out 24 of 120 documents" in each and "asks for 64" in each for each in warnings)


def test_a_group_field_that_no_document_has_is_65(bench: Any, tokenizer: TokenizerHandle) -> None:
    message = refusal(bench, DataError, tokenizer=tokenizer, corpus=source(groupField="origin"))
    assert "no document has the groupField 'origin'" in message


def test_a_file_that_changes_under_our_hands_is_65(
    bench: Any, tokenizer: TokenizerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the scan and tokenisation another process appends a line."""

    def interfere(stage: str, *_: object) -> None:
        if stage == "tokenise":
            with (bench.root / "new.jsonl").open("a") as stream:
                stream.write('{"text": "late"}\n')

    monkeypatch.setattr(bench, "messages", type("Log", (), {"append": lambda _, message: interfere(*message)})())
    assert "new.jsonl: changed while it was prepared" in refusal(bench, DataError, tokenizer=tokenizer)


def test_a_full_disk_is_75(bench: Any, tokenizer: TokenizerHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "disk full while writing" in refusal(bench, DependencyError, tokenizer=tokenizer)
    monkeypatch.undo()
    assert not list(bench.cache.rglob("*.tmp"))
    bench.prepare(tokenizer=tokenizer)


def shards(bench: Any, tokenizer: TokenizerHandle) -> Path:
    """The prepared shards of `new`, copied out as somebody else's token shards."""
    import shutil

    folder = bench.prepare(tokenizer=tokenizer).source_folders["new"]
    target: Path = shutil.copytree(folder, bench.root / "tokens")
    return target


TOKENS = {"corpus": {"sources": [{"name": "new", "uri": "tokens", "format": "Tokens"}]}}
EVALUATION = {"evaluation": {"sets": [{"name": "old", "role": "Retained"}]}}


@pytest.mark.parametrize("uri", ["tokens", "tokens/*.bin", "tok*/**/*.bin"])
def test_token_shards_are_taken_as_they_are(bench: Any, tokenizer: TokenizerHandle, uri: str) -> None:
    expected = bench.prepare(tokenizer=tokenizer)
    shards(bench, tokenizer)
    cache = bench.root.parent / f"{bench.root.name}-second"
    sources = {"sources": [{"name": "new", "uri": uri, "format": "Tokens"}]}
    prepared = bench.prepare(cache, tokenizer=tokenizer, corpus=sources, **EVALUATION)
    pin, before = prepared.pins.sources["new"], expected.pins.sources["new"]
    assert (pin.rows, pin.documents, pin.tokens) == (before.rows, before.documents, before.tokens)
    first, second = expected.sources()["new"], prepared.sources()["new"]
    assert all((first.row(index) == second.row(index)).all() for index in range(first.rows))


def test_shards_of_another_tokenizer_are_65_and_both_are_named(
    bench: Any, tokenizer: TokenizerHandle, texts: Any, tmp_path: Path
) -> None:
    shards(bench, tokenizer)
    train_tokenizer(texts(60, seed=8), 300, tmp_path / "other")
    other = TokenizerHandle.load(tmp_path / "other")
    message = refusal(bench, DataError, tokenizer=other, **TOKENS, **EVALUATION)
    assert tokenizer.fingerprint in message
    assert other.fingerprint in message


def test_damaged_or_unlisted_shards_are_65(bench: Any, tokenizer: TokenizerHandle) -> None:
    folder = shards(bench, tokenizer)
    (folder / "extra.bin").write_bytes(b"\0\0")
    assert "extra.bin: not listed" in refusal(bench, DataError, tokenizer=tokenizer, **TOKENS, **EVALUATION)
    (folder / "extra.bin").unlink()
    data = bytearray((folder / "00000.bin").read_bytes())
    data[0] ^= 1
    (folder / "00000.bin").write_bytes(data)
    cache = bench.root / "fresh"
    with pytest.raises(DataError, match=r"tokens/00000\.bin: found \d+ tokens with sha256"):
        bench.prepare(cache, tokenizer=tokenizer, **TOKENS, **EVALUATION)


def test_shards_without_an_index_are_66(bench: Any, tokenizer: TokenizerHandle) -> None:
    (shards(bench, tokenizer) / "index.json").unlink()
    message = refusal(bench, MissingInputError, tokenizer=tokenizer, **TOKENS, **EVALUATION)
    assert "tokens/index.json" in message


def test_token_shards_cannot_be_held_out(bench: Any, tokenizer: TokenizerHandle) -> None:
    from rewarm_api.snapshot import EvaluationSet, Role

    shards(bench, tokenizer)
    snapshot = bench.snapshot(**TOKENS, **EVALUATION)
    cut = EvaluationSet(
        name="new", role=Role.NEW, uri=None, format=None, text_field="text", label_field="", date_field=""
    )
    evaluation = snapshot.evaluation.model_copy(update={"sets": (cut,)})
    with pytest.raises(ManifestError, match=r"spec.evaluation.sets\[0\]: found set 'new' without a uri"):
        bench.prepare(tokenizer=tokenizer, snapshot=snapshot.model_copy(update={"evaluation": evaluation}))


def test_messages_are_one_line(bench: Any, tokenizer: TokenizerHandle) -> None:
    (bench.root / "new.jsonl").write_text(json.dumps({"text": "x"})[:-1])
    assert "\n" not in refusal(bench, DataError, tokenizer=tokenizer)
