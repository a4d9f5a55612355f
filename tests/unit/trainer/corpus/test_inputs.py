"""What a uri means: files, their order, their formats."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rewarm_api.errors import DataError, MissingInputError
from rewarm_api.snapshot import Format
from rewarm_trainer.corpus.inputs import InputFile, expand, translate, with_formats
from rewarm_trainer.corpus.scan import units_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", "sub/deep/d.txt.gz", ".hidden/e.jsonl", "sub/.f.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "b.jsonl", "sub/c.jsonl"]),
        ("sub", ["c.jsonl", "deep/d.txt.gz"]),
        ("sub/*.jsonl", ["c.jsonl"]),
        ("./[ab].jsonl", ["a.jsonl", "b.jsonl"]),
    ],
)
def test_local_files_in_order_of_their_relative_path(folder: Path, uri: str, expected: list[str]) -> None:
    assert [file.relative for file in expand(uri, folder)] == expected
    absolute = [file.relative for file in expand(f"file://{folder}/{uri.removeprefix('./')}", Path("/"))]
    assert absolute == expected


def test_a_root_with_wildcards_in_its_name_is_no_glob(tmp_path: Path) -> None:
    root = tmp_path / "odd[1]*"
    root.mkdir()
    (root / "a.txt").write_text("x")
    assert [file.relative for file in expand("*.txt", root)] == ["a.txt"]


@pytest.mark.parametrize("uri", ["nothing.jsonl", "no/*.parquet", "file:///not/there/*.txt", "empty", "claim://c/x"])
def test_nothing_there_is_66_and_names_the_uri(folder: Path, uri: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(MissingInputError, match=re.escape(uri)) as caught:
        expand(uri, folder)
    assert caught.value.exit_code == 66


def test_formats_by_suffix_and_as_asked(folder: Path) -> None:
    names = ["a.parquet", "b.jsonl.zst", "c.json", "d.txt.gz", "e.MD", "f.bin"]
    files = [InputFile(f"/x/{name}", name, 1) for name in names]
    kinds = [Format.PARQUET, Format.JSON_LINES, Format.JSON_LINES, Format.TEXT, Format.TEXT, Format.TOKENS]
    assert [file.format for file in with_formats(files, None)] == kinds
    assert {file.format for file in with_formats(files, Format.TEXT)} == {Format.TEXT}
    with pytest.raises(DataError, match=r"/x/g.csv: format unknown from suffix '.csv'"):
        with_formats([InputFile("/x/g.csv", "g.csv", 1)], None)


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("a/*.json", "a/b.json", True),
        ("a/*.json", "a/b/c.json", False),
        ("a/**/*.json", "a/b/c.json", True),
        ("a/**/*.json", "a/c.json", True),
        ("a/?[!0-9].x", "a/bc.x", True),
        ("a/?[!0-9].x", "a/b7.x", False),
        ("a+(b)/*", "a+(b)/c", True),
    ],
)
def test_globs_over_object_keys(pattern: str, key: str, matches: bool) -> None:
    assert bool(re.fullmatch(translate(pattern), key)) is matches


def test_small_texts_share_a_unit_of_work_and_other_files_do_not() -> None:
    texts = [InputFile(f"/t/{n}", f"{n}", 400_000, format=Format.TEXT) for n in range(5)]
    lines = [InputFile(f"/l/{n}", f"{n}", 1, format=Format.JSON_LINES) for n in range(3)]
    assert [len(unit) for unit in units_of([*texts, *lines])] == [2, 2, 1, 1, 1, 1]
