"""Each format, whole and broken: what is read, what is tolerated, what is lost."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from rewarm_api.snapshot import Format
from rewarm_trainer.corpus.readers import Broken, BrokenFile, Document, Fields, base, reader_for
from rewarm_trainer.corpus.readers import parquet as parquet_reader

# Frames without a checksum cannot tell a flipped bit; `zstd` on the command line writes one.
squeeze = zstandard.ZstdCompressor(write_checksum=True).compress
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: squeeze(data[: len(data) // 2]) + squeeze(data[len(data) // 2 :]),
}


def read(path: Path, format: Format, fields: Fields | None = None) -> list[Document | Broken]:
    return list(reader_for(format)(path, fields or Fields(), lambda _: None))


@pytest.mark.parametrize("suffix", PACK)
def test_json_lines(tmp_path: Path, suffix: str) -> None:
    texts = ["one", "zwölf\u2028not a line end", "", "tab\tand \\n"]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACK[suffix]("".join(json.dumps({"text": text}) + "\n\n" for text in texts).encode()))
    assert read(path, Format.JSON_LINES) == [Document(text) for text in texts]


def test_json_lines_names_the_line_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [b'\xef\xbb\xbf{"text": "good"}', b'{"text": "\xff"}', b"{", b'["text"]', b'{"body": "x"}', b'{"text": 7}']
    path.write_bytes(b"\n".join([*lines, b'{"text": "\\ud800"}', b'{"text": "last"}']))
    found = read(path, Format.JSON_LINES)
    assert [found[0], found[-1]] == [Document("good"), Document("last")]
    broken = [each for each in found if isinstance(each, Broken)]
    assert [each.line for each in broken] == [2, 3, 4, 5, 6, 7]
    expected = ["not UTF-8", "not JSON", "list instead of an object", "no field 'text'", "is int", "surrogate"]
    assert all(words in each.reason for words, each in zip(expected, broken, strict=True))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_compressed_file_is_lost(tmp_path: Path, suffix: str, damage: str) -> None:
    data = bytearray(PACK[suffix]("".join(json.dumps({"text": str(n)}) + "\n" for n in range(5000)).encode()))
    if damage == "cut":
        del data[-12:]
    else:
        data[len(data) // 3] ^= 0xFF
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(data)
    with pytest.raises(BrokenFile, match=r"line \d+: cannot be decompressed"):
        read(path, Format.JSON_LINES)


@pytest.mark.parametrize("suffix", PACK)
def test_text_is_one_document_exactly_as_it_stands(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](b"line\r\nline\n"))
    assert read(path, Format.TEXT) == [Document("line\r\nline\n")]


def test_undecodable_text_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\n\xfe")
    assert read(path, Format.TEXT) == [Broken(3, "not UTF-8 at byte 8 of the file")]


def parquet(path: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", body=["a", None, "c"], origin=["x", "y", None], other=[1, 2, 3])
    found = read(path, Format.PARQUET, Fields("body", group="origin"))
    assert found == [Document("a", "x"), Broken(2, "field 'body' is NoneType, expected a string"), Document("c", None)]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_packed_parquet(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.parquet{suffix}"
    path.write_bytes(PACK[suffix](parquet(tmp_path / "a.parquet", text=["a", "b", "c"]).read_bytes()))
    assert read(path, Format.PARQUET) == [Document("a"), Document("b"), Document("c")]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(BrokenFile, match="row 1: cannot be read as Parquet"):
        read(path, Format.PARQUET)


def test_parquet_without_the_column(tmp_path: Path) -> None:
    with pytest.raises(BrokenFile, match="no column 'text'; the file has 'body'"):
        read(parquet(tmp_path / "a.parquet", body=["a"]), Format.PARQUET)


def test_broken_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", text=["a" * 500, "b" * 500, "c", "d"])
    data = bytearray(path.read_bytes())
    (tmp_path / "cut.parquet").write_bytes(data[:-20])
    with pytest.raises(BrokenFile, match="row 1: cannot be read as Parquet"):
        read(tmp_path / "cut.parquet", Format.PARQUET)


def test_parquet_value_that_is_not_utf8_breaks_its_row_alone(tmp_path: Path) -> None:
    raw = pyarrow.array([b"good", b"\xff\xfe", b"also good"]).view(pyarrow.string())
    found = read(parquet(tmp_path / "a.parquet", text=raw), Format.PARQUET)
    assert found == [Document("good"), Broken(2, "not UTF-8 at byte 0 of the value"), Document("also good")]


@pytest.mark.parametrize("format", [Format.JSON_LINES, Format.TEXT, Format.PARQUET])
def test_readers_tell_how_much_they_read(tmp_path: Path, format: Format) -> None:
    path = tmp_path / "file"
    if format is Format.PARQUET:
        parquet(path, text=["a", "b", "c"])
    else:
        path.write_bytes(b'{"text": "x"}\n' * 100)
    counted: list[int] = []
    assert list(reader_for(format)(path, Fields(), counted.append))
    assert sum(counted) == path.stat().st_size


def zeros(size: int) -> bytes:
    return b'{"text": "' + b"0" * size + b'"}\n'


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize(("name", "format"), [("a.jsonl", Format.JSON_LINES), ("a.txt", Format.TEXT)])
def test_a_bomb_is_refused_before_it_fills_the_memory(
    tmp_path: Path, name: str, format: Format, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "FREE_BYTES", 1 << 20)
    path = tmp_path / (name + suffix)
    path.write_bytes(PACK[suffix](zeros(8 << 20)))
    with pytest.raises(BrokenFile, match=r"came out of [\d,]+, expected at most 250 times as many") as caught:
        read(path, format)
    seen = int(re.findall(r"([\d,]+) bytes came out", str(caught.value))[0].replace(",", ""))
    assert seen < 4 << 20, "it is stopped on the way, not at the end"


def test_what_one_piece_of_a_zstandard_bomb_holds_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of bytes that say "the same 128 KiB again" stands for 32 GiB; memory must not follow."""
    monkeypatch.setattr(base, "FREE_BYTES", 1 << 20)
    header = bytes.fromhex("28b52ffd") + b"\x00" + b"\x38"  # a frame with a window of 128 KiB and no checksum
    block = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"0"  # one byte, 131,072 times
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(header + block * (1 << 18))
    tracemalloc.start()
    with pytest.raises(BrokenFile, match="line 1: cannot be decompressed"):
        read(path, Format.JSON_LINES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 512 << 20


def test_a_small_file_may_expand_as_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"0" * (4 << 20)))
    assert read(path, Format.TEXT) == [Document("0" * (4 << 20))]


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LONGEST_LINE", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "short"}\n' + zeros(2000))
    with pytest.raises(BrokenFile, match="line 2: more than 1,000 bytes without an end, expected one document"):
        read(path, Format.JSON_LINES)


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_parquet_bomb_is_refused(tmp_path: Path, dictionary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own account of its pages, and by what comes out where a dictionary stands for more than that."""
    monkeypatch.setattr(base, "FREE_BYTES", 1 << 20)
    table = pyarrow.table({"text": ["0" * 10_000] * 10_000})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, use_dictionary=dictionary, compression="zstd")
    with pytest.raises(BrokenFile, match="expected at most 250 times as many"):
        read(path, Format.PARQUET)


def test_rows_of_parquet_are_decoded_few_at_a_time_where_each_may_be_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long text in a dictionary, and rows that all repeat it: what is decoded at once must not follow."""
    monkeypatch.setattr(base, "FREE_BYTES", 4 << 20)
    monkeypatch.setattr(parquet_reader, "BATCH_BYTES", 1 << 20)
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, pyarrow.int32()), ["0" * (128 << 10)])
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), path, compression="zstd")
    with pytest.raises(BrokenFile, match="expected at most 250 times as many") as caught:
        read(path, Format.PARQUET)
    seen = int(re.findall(r"([\d,]+) bytes came out", str(caught.value))[0].replace(",", ""))
    assert 4 << 20 < seen < 5.1 * (1 << 20), "one batch beyond what is free, and 256 rows of it would be 32 MiB"


def test_small_rows_of_parquet_are_decoded_together(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a line of text"] * 1000}), path)
    assert parquet_reader.batch_rows(pyarrow.parquet.read_metadata(path), ["text"]) == parquet_reader.BATCH_ROWS
