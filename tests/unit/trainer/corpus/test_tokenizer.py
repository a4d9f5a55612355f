"""The tokenizer: the same for the same text, plain text inside documents, EOS and BOS as trainer.md has them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors

from rewarm_api.errors import DataError, MissingInputError
from rewarm_trainer.corpus.readers import Document
from rewarm_trainer.corpus.tokenise import Lot, encoded_lots
from rewarm_trainer.corpus.tokenizer import TokenizerHandle, train_tokenizer


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folder(tokenizer: TokenizerHandle, tmp_path: Path) -> Path:
    tokenizer.save(tmp_path / "copy")
    return tmp_path / "copy"


def test_vocabulary_counts_everything(tokenizer: TokenizerHandle) -> None:
    assert (tokenizer.vocabulary, tokenizer.largest_id, tokenizer.eos, tokenizer.bos) == (300, 299, 0, None)


def test_every_byte_comes_back(tokenizer: TokenizerHandle) -> None:
    text = "naïve 🙂 \x00\t\r\n   end"
    backend = Tokenizer.from_file(str(tokenizer.folder / "tokenizer.json"))
    assert backend.decode(tokenizer.encode_batch([text])[0], skip_special_tokens=False) == text


def test_special_token_text_inside_a_document_is_plain_text(tokenizer: TokenizerHandle) -> None:
    (ids,) = tokenizer.encode_batch(["a<|endoftext|>b"])
    assert tokenizer.eos not in ids
    assert len(ids) > 3


def test_training_is_deterministic_across_processes(tmp_path: Path, texts: Any) -> None:
    program = (
        "import json, sys, pathlib; from rewarm_trainer.corpus.tokenizer import train_tokenizer;"
        "train_tokenizer(json.load(sys.stdin), 400, pathlib.Path(sys.argv[1]))"
    )
    for number in (1, 2):
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / str(number))],
            input=json.dumps(texts(200, seed=5)),
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert (tmp_path / "1/tokenizer.json").read_bytes() == (tmp_path / "2/tokenizer.json").read_bytes()


def test_auto_tokenizer_loads_the_same(tokenizer: TokenizerHandle, texts: Any) -> None:
    from transformers import AutoTokenizer

    from rewarm_trainer.corpus.tokenizer import load_by_transformers, load_plain

    theirs = AutoTokenizer.from_pretrained(str(tokenizer.folder))
    (text,) = texts(1, seed=9)
    assert theirs(text, add_special_tokens=False).input_ids == tokenizer.encode_batch([text])[0]
    assert theirs.eos_token_id == tokenizer.eos
    assert theirs.bos_token_id is None
    plain = load_plain(tokenizer.folder)
    assert plain is not None
    slow = load_by_transformers(tokenizer.folder)
    prints = {TokenizerHandle(tokenizer.folder, rules, eos or 0, None).fingerprint for rules, eos, *_ in (plain, slow)}
    assert prints == {tokenizer.fingerprint}


def test_fingerprint_survives_copying_and_pickling_but_not_another_vocabulary(
    tokenizer: TokenizerHandle, folder: Path, tmp_path: Path, texts: Any
) -> None:
    assert TokenizerHandle.load(folder).fingerprint == tokenizer.fingerprint
    assert pickle.loads(pickle.dumps(tokenizer)).fingerprint == tokenizer.fingerprint
    train_tokenizer(texts(50, seed=4), 310, tmp_path / "other")
    assert TokenizerHandle.load(tmp_path / "other").fingerprint != tokenizer.fingerprint


def with_bos(folder: Path, *, puts_it: bool) -> None:
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(["<s>"])
    if puts_it:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
        )
    backend.save(str(folder / "tokenizer.json"))
    edit_config(folder, bos_token="<s>", **({"add_bos_token": True} if puts_it else {}))


@pytest.mark.parametrize(
    ("puts_it", "start", "expected"),
    [
        (True, "Tokenizer", 300),
        (True, "BOS", 300),
        (True, "None", None),
        (False, "Tokenizer", None),
        (False, "BOS", 300),
    ],
)
def test_document_start(folder: Path, puts_it: bool, start: str, expected: int | None) -> None:
    with_bos(folder, puts_it=puts_it)
    handle = TokenizerHandle.load(folder, start)
    assert handle.bos == expected
    assert 300 not in handle.encode_batch(["a"])[0]


def test_bos_asked_without_one_is_65(folder: Path) -> None:
    with pytest.raises(DataError, match="documentStart is BOS, but the tokenizer has no beginning-of-sequence token"):
        TokenizerHandle.load(folder, "BOS")


def test_no_eos_is_65(folder: Path) -> None:
    edit_config(folder, eos_token=None)
    with pytest.raises(DataError, match="no end-of-sequence token"):
        TokenizerHandle.load(folder)


def test_no_tokenizer_is_66_and_a_damaged_one_65(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="empty: no tokenizer there"):
        TokenizerHandle.load(tmp_path / "empty")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        TokenizerHandle.load(folder)


def test_saving_keeps_the_files_as_they_are(tokenizer: TokenizerHandle, folder: Path) -> None:
    shutil.copy(tokenizer.folder / "tokenizer.json", folder / "before.json")
    assert (folder / "tokenizer.json").read_bytes() == (folder / "before.json").read_bytes()


def test_lots_come_in_order_with_their_ids_and_a_broken_reader_ends_them(tokenizer: TokenizerHandle) -> None:
    lots = [[(number, 0, Document(f"lot {number} says {word}")) for word in ("ka", "mi")] for number in range(5)]

    def reader() -> Iterator[Lot]:
        yield from lots[:3]
        raise DataError("changed while it was prepared")

    found = list(encoded_lots(iter(lots), tokenizer))
    assert [lot for lot, _ in found] == lots
    for lot, ids in found:
        assert ids == tokenizer.encode_batch([document.text for _, _, document in lot])
    assert list(encoded_lots(iter([]), tokenizer)) == []
    with pytest.raises(DataError, match="changed"):
        list(encoded_lots(reader(), tokenizer))
