"""Rows against the definition: row i of a stream is its tokens [i*S, i*S + S], whatever the shards."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_api.errors import DataError, MissingInputError
from rewarm_trainer.corpus.shards import Index, ShardWriter, dtype_for, verify, write_index
from rewarm_trainer.corpus.source import SubsetSource, TokenSource, open_source
from rewarm_trainer.permutation import place


def write_stream(folder: Path, stream: list[int], dtype: str = "uint16", shard_tokens: int = 1 << 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder, dtype, shard_tokens) as writer:
        for start in range(0, len(stream), 7):
            writer.write(np.array(stream[start : start + 7], dtype=dtype))
    shards = tuple(writer.shards)
    index = Index(
        dtype=dtype,
        tokenizer="sha256:x",
        eos=0,
        bos=None,
        documents=1,
        tokens=len(stream),
        largest_id=writer.largest_id,
        shards=shards,
    )
    write_index(folder, index)
    return folder


@given(
    st.integers(0, 200).flatmap(lambda size: st.lists(st.integers(0, 70_000), min_size=size, max_size=size)),
    st.integers(1, 20),
    st.integers(1, 40),
)
def test_rows_are_the_stream(stream: list[int], sequence_length: int, shard_tokens: int) -> None:
    with TemporaryDirectory() as place:
        folder = write_stream(Path(place), stream, "uint32", shard_tokens)
        source = open_source(folder, "a", sequence_length)
        assert source.rows == max(0, len(stream) - 1) // sequence_length
        for index in range(source.rows):
            start = index * sequence_length
            row = source.row(index)
            assert row.dtype == np.int64
            assert row.tolist() == stream[start : start + sequence_length + 1]
        chosen = np.array([7 * index % max(1, source.rows) for index in range(source.rows)], dtype=np.int64)
        assert source.take(chosen).tolist() == [source.row(int(index)).tolist() for index in chosen]
        used = source.rows * sequence_length + 1 if source.rows else 0
        assert source.dropped_tokens == len(stream) - used < sequence_length + 1
        assert verify(folder).tokens == len(stream)


@pytest.mark.parametrize("index", [-1, 3])
def test_rows_outside_are_refused(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError, match=f"source 'a': row {index} of 3"):
        open_source(write_stream(tmp_path, list(range(10))), "a", 3).row(index)


def test_rows_outside_are_refused_among_others(tmp_path: Path) -> None:
    source = open_source(write_stream(tmp_path, list(range(10))), "a", 3)
    with pytest.raises(IndexError, match="source 'a': rows 0 to 3 of 3"):
        source.take(np.array([0, 3, 1]))
    assert source.take(np.array([], dtype=np.int64)).shape == (0, 4)


def test_opening_reads_no_shard(tmp_path: Path) -> None:
    folder = write_stream(tmp_path, list(range(100)), shard_tokens=10)
    for shard in folder.glob("*.bin"):
        shard.unlink()
    source = open_source(folder, "a", 9)
    assert source.rows == 11
    with pytest.raises(DataError, match=r"00000\.bin: cannot be mapped as 10 uint16 tokens"):
        source.row(0)


def test_a_source_travels_between_processes(tmp_path: Path) -> None:
    source = open_source(write_stream(tmp_path, list(range(20))), "a", 3)
    source.row(1)
    assert pickle.loads(pickle.dumps(source)).row(2).tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize(("largest", "dtype"), [(65_535, "uint16"), (65_536, "uint32")])
def test_the_smallest_type_is_taken(largest: int, dtype: str) -> None:
    assert dtype_for(largest) == dtype


def test_a_flipped_byte_is_named(tmp_path: Path) -> None:
    folder = write_stream(tmp_path, list(range(50)), shard_tokens=20)
    data = bytearray((folder / "00001.bin").read_bytes())
    data[5] ^= 1
    (folder / "00001.bin").write_bytes(data)
    with pytest.raises(DataError, match=r"00001\.bin: found sha256 [0-9a-f]{64} over 40 bytes, expected"):
        verify(folder)
    (folder / "00002.bin").unlink()
    (folder / "00001.bin").unlink()
    with pytest.raises(MissingInputError, match=r"00001\.bin: not there, but index.json lists it"):
        verify(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "dtype is None, expected str"),
        ("{", "not JSON"),
        ('{"dtype": "int8", "tokenizer": "t", "documents": 1, "shards": []}', "dtype is 'int8'"),
    ],
)
def test_a_broken_index_is_65(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(DataError, match=words):
        open_source(tmp_path, "a", 3)


@given(rows=st.integers(1, 60), taken=st.integers(0, 150), seed=st.integers(0, 5))
def test_an_earlier_run_is_replayed_by_what_it_saw(rows: int, taken: int, seed: int) -> None:
    """Its rows are the distinct rows that the earlier order gave out first, each once."""
    with TemporaryDirectory() as folder:
        whole = open_source(write_stream(Path(folder), list(range(rows * 2 + 1))), "old", 2)
        subset = SubsetSource(whole, taken=taken, seed=seed, size=rows)
        seen = {place(seed, "old", index, rows)[1] for index in range(taken)}
        found = Counter(int(subset.row(index)[0]) // 2 for index in range(subset.rows))
        assert found == Counter(seen)
        assert [subset.row(index).tolist() for index in range(subset.rows)] == [
            whole.row(place(seed, "old", index, rows)[1]).tolist() for index in range(subset.rows)
        ]


def test_an_earlier_run_of_other_rows_is_refused(tmp_path: Path) -> None:
    whole = TokenSource(write_stream(tmp_path, list(range(21))), "old", 4)
    with pytest.raises(DataError, match="holds 5 rows of 4 tokens, but the earlier run drew from 10"):
        SubsetSource(whole, taken=3, seed=0, size=10)
