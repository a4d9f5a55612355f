"""hf:// uris, and rows of a dataset folder through `datasets` itself (no network)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rewarm_api.errors import DataError, MissingInputError
from rewarm_trainer.corpus.hugging_face import Address, expand_dataset
from rewarm_trainer.corpus.tokenizer import TokenizerHandle


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hf://owner/name", ("owner/name", False, None, None, None, "train")),
        ("hf://datasets/owner/name@main/en?split=test", ("owner/name", False, "main", "en", None, "test")),
        ("hf://owner/name?revision=abc&config=de", ("owner/name", False, "abc", "de", None, "train")),
        ("hf://owner/name/data/en/*.parquet", ("owner/name", False, None, None, "data/en/*.parquet", "train")),
        ("hf://./folder?split=validation", ("./folder", True, None, None, None, "validation")),
        ("hf:///abs/folder?config=x", ("/abs/folder", True, None, "x", None, "train")),
    ],
)
def test_uris(uri: str, expected: tuple[Any, ...]) -> None:
    address = Address.parse(uri)
    parts = (address.path, address.local, address.revision, address.config, address.files, address.split)
    assert parts == expected
    assert Address.parse(address.uri(0, 4)) == address


def test_a_uri_without_a_dataset_is_65() -> None:
    with pytest.raises(DataError, match="hf://owner: no dataset; expected hf://OWNER/NAME"):
        Address.parse("hf://owner")


def dataset(bench: Any, texts: Any, lines: Any) -> None:
    """new.jsonl as a dataset of two files."""
    new = texts(120, seed=1)
    lines(bench.root / "folder/train-0.jsonl", new[:70])
    lines(bench.root / "folder/train-1.jsonl", new[70:])


def test_rows_of_a_dataset_are_the_documents_in_order(
    bench: Any, tokenizer: TokenizerHandle, texts: Any, lines: Any
) -> None:
    whole = bench.prepare(tokenizer=tokenizer)
    dataset(bench, texts, lines)
    files = expand_dataset("hf://./folder?split=train", bench.root)
    assert [file.relative for file in files] == ["train/00000-of-00002", "train/00001-of-00002"]
    sources = {"sources": [{"name": "new", "uri": "hf://./folder?split=train"}]}
    prepared = bench.prepare(tokenizer=tokenizer, corpus=sources)
    assert prepared.source_folders == whole.source_folders
    first = prepared.pins.sources["new"].digest
    lines(bench.root / "folder/train-1.jsonl", texts(50, seed=6))
    assert bench.prepare(tokenizer=tokenizer, corpus=sources).pins.sources["new"].digest != first


def test_what_is_wrong_is_named(bench: Any, tokenizer: TokenizerHandle, texts: Any, lines: Any) -> None:
    dataset(bench, texts, lines)
    with pytest.raises(DataError, match=r"split=other: cannot be read \(.*other"):
        expand_dataset("hf://./folder?split=other", bench.root)
    with pytest.raises(MissingInputError, match=r"hf://\./nothing: no such file or folder"):
        expand_dataset("hf://./nothing", bench.root)
    sources = {"sources": [{"name": "new", "uri": "hf://./folder", "textField": "body"}]}
    with pytest.raises(DataError, match=r"hf://.*folder.*'body'"):
        bench.prepare(tokenizer=tokenizer, corpus=sources)
