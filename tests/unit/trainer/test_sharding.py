"""Sharded weights, gradients and moments: the arithmetic of parts, and two real processes beside a replicated run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from rewarm_api.errors import DataError, DependencyError
from rewarm_trainer.checkpoint import Checkpoints
from rewarm_trainer.evaluation import lacks_a_batch
from rewarm_trainer.launch import free_port
from rewarm_trainer.sharding import owners, rows_per_process
from rewarm_trainer.storage import LocalStorage
from rewarm_trainer.tensor_files import StoredTensors, index_name, index_of, part_name, parts_of

SIZES = st.dictionaries(st.text("abcdef.", min_size=1), st.integers(0, 10_000), max_size=40)


@given(SIZES, st.integers(1, 9))
def test_each_tensor_has_one_writer_and_no_writer_has_much_more_than_another(sizes: dict[str, int], world: int) -> None:
    found = owners(sizes, world)
    assert found.keys() == sizes.keys()
    assert list(found) == sorted(found), "every process goes through them in one order"
    assert found == owners(dict(reversed(sizes.items())), world)
    loads = [sum(size for name, size in sizes.items() if found[name] == rank) for rank in range(world)]
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)


@given(st.integers(1, 1000), st.integers(1, 64))
def test_parts_are_those_of_torch(rows: int, world: int) -> None:
    part = rows_per_process(rows, world)
    chunks = [len(chunk) for chunk in torch.arange(rows).chunk(world)]
    assert [min(rank * part + part, rows) - min(rank * part, rows) for rank in range(len(chunks))] == chunks


def test_who_has_no_batch_left_in_the_last_round() -> None:
    assert [rank for rank in range(4) if lacks_a_batch(6, rank, 4)] == [2, 3]
    assert not any(lacks_a_batch(8, rank, 4) for rank in range(4))
    assert not any(lacks_a_batch(0, rank, 4) for rank in range(4))


def test_parts_of_a_file_are_found_and_read_one_by_one(tmp_path: Path) -> None:
    assert part_name("model.safetensors", 0, 1) == "model.safetensors"
    for rank in (0, 1):
        tensors = {f"t{rank}": torch.full((2, 3), float(rank))}
        save_file(tensors, tmp_path / part_name("model.safetensors", rank, 2))
    save_file({"moment": torch.zeros(1)}, tmp_path / "optimizer-00001-of-00001.safetensors")
    assert [path.name for path in parts_of(tmp_path, "model.safetensors")] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    stored = StoredTensors.of(tmp_path, "model.safetensors")
    assert sorted(stored) == ["t0", "t1"]
    assert stored["t1"].tolist() == [[1.0] * 3] * 2
    assert stored.type_and_shape("t0") == ("F32", (2, 3))
    with pytest.raises(DataError, match="missing"):
        StoredTensors.of(tmp_path / "nothing", "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="no whole safetensors file"):
        StoredTensors.of(tmp_path, "model.safetensors")


def test_the_index_is_that_of_hugging_face() -> None:
    assert index_name("model.safetensors") == "model.safetensors.index.json"
    assert json.loads(index_of("model.safetensors", [["b"], ["a"]], 24)) == {
        "metadata": {"total_size": 24},
        "weight_map": {"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"},
    }


# --- one checkpoint of several writers -------------------------------------------------------------------------------


class Threads:
    """Peers of one process: what they agree on goes by memory."""

    def __init__(self, rank: int, barrier: threading.Barrier, table: dict[int, Any]) -> None:
        self.rank, self.world = rank, barrier.parties
        self._barrier, self._table = barrier, table

    def agree(self, work: Callable[[], Any]) -> list[Any]:
        failure = None
        try:
            self._table[self.rank] = work()
        except Exception as error:
            failure = self._table[self.rank] = error
        self._barrier.wait(30)
        found = [self._table[rank] for rank in range(self.world)]
        self._barrier.wait(30)
        if failure:
            raise failure
        for each in found:
            if isinstance(each, Exception):
                raise DependencyError(f"another: {each}")
        return found


def written_by_two(root: Path, stores: list[LocalStorage]) -> list[Any]:
    """A commit of two writers; what it gave each, an error in its place."""
    barrier, table, found = threading.Barrier(2), dict[int, Any](), dict[int, Any]()
    first = Checkpoints(stores[0], root / "staging")
    epoch = first.claim({"pid": 1})
    second = Checkpoints(stores[1], root / "staging")
    second.follow(epoch)

    def write(rank: int, checkpoints: Checkpoints) -> None:
        folder = checkpoints.stage(4, rank)
        (folder / f"part-{rank}").write_bytes(bytes([rank]) * 10)
        try:
            found[rank] = checkpoints.commit(4, 1024, folder, Threads(rank, barrier, table))
        except Exception as error:
            found[rank] = error
        assert not folder.exists()

    threads = [threading.Thread(target=write, args=pair) for pair in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[0], found[1]]


def test_a_checkpoint_of_two_writers_has_one_manifest(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path / "checkpoints")
    written_by_two(tmp_path, [store, store])
    checkpoint = Checkpoints(store, tmp_path / "staging").verify(4)
    files = json.loads((checkpoint.folder / "manifest.json").read_text())["files"]
    assert {name: entry["size"] for name, entry in files.items()} == {"part-0": 10, "part-1": 10}
    (checkpoint.folder / "part-1").unlink()
    with pytest.raises(DataError, match="part-1: missing"):
        Checkpoints(store, tmp_path / "staging").verify(4)


def test_a_part_that_another_writer_left_is_not_believed(tmp_path: Path) -> None:
    """A writer that froze before its upload and woke up after another one committed."""
    store = LocalStorage(tmp_path / "checkpoints")
    written_by_two(tmp_path, [store, store])
    checkpoints = Checkpoints(store, tmp_path / "staging")
    folder = checkpoints.verify(4).folder
    (folder / "model-00003-of-00004.safetensors").write_bytes(b"late")
    with pytest.raises(DataError, match=r"model-00003-of-00004.safetensors: not in manifest.json"):
        checkpoints.verify(4)


class Full(LocalStorage):
    def put_file(self, key: str, path: Path) -> None:
        raise OSError(28, "No space left on device")


def test_a_writer_that_fails_leaves_no_checkpoint(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    errors = written_by_two(tmp_path, [LocalStorage(root), Full(root)])
    assert all(isinstance(error, DependencyError) for error in errors)
    assert "disk full" in str(errors[1])
    assert Checkpoints(LocalStorage(root), tmp_path / "staging").steps() == [], "its space is given back"


# --- two processes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> dict[str, Any]:
    """What two processes found, each check in the same two: they begin slowly."""
    script = Path(__file__).parents[2] / "support" / "sharded_pair.py"
    meeting = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = {**os.environ, **meeting, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        out, err = processes[0].communicate(timeout=280)
    finally:
        for process in processes:
            process.kill()
    assert processes[0].returncode == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.mark.parametrize("check", ["llama", "gpt2", "gpt_neox", "chunked", "recomputed", "frozen"])
def test_sharded_training_is_replicated_training(pair: dict[str, Any], check: str) -> None:
    found = pair[check]
    assert found["sharded"], "the strategy that is really on"
    assert found["held"] == pytest.approx(0.5, abs=0.01)
    assert found["loss"] < 1e-5
    assert found["moments"] < 1e-6
    # AdamW divides by the root of a moment: where that is almost nothing, rounding is felt most.
    assert found["weights"] < 5e-4


def test_bf16_computes_in_bf16_and_keeps_fp32_masters(pair: dict[str, Any]) -> None:
    assert 0 < pair["bf16"]["loss"] < 5e-2
    assert pair["bf16"]["weights"] < 1e-2


def test_shares_come_back_to_the_bit_sharded_and_replicated(pair: dict[str, Any]) -> None:
    found = pair["saved"]
    assert found["disjoint"]
    assert found["collected"] == found["sharded"] == found["replicated"] == 0.0
    assert found["sharded goes on"] == 0.0, "bit for bit at the same number of processes"
    assert found["replicated goes on"] < 1e-5
    assert abs(found["shares"][0] - found["shares"][1]) < 0.1 * sum(found["shares"])


def test_a_tensor_with_fewer_rows_than_processes(pair: dict[str, Any]) -> None:
    assert pair["small"] == {"rows": [[0, 1], [0, 1]], "same": 0.0, "put": 0.0}


def test_a_broken_row_of_one_process_moves_none(pair: dict[str, Any]) -> None:
    assert pair["not finite"] == {"finite": False, "moved": 0.0}


def test_scores_are_those_of_a_whole_model(pair: dict[str, Any]) -> None:
    found = pair["scored"]
    assert found["digest"], "the base is recognised whole or in parts"
    assert found["masters"] < 1e-4
    assert found["rounded"] < 1e-4
    assert found["masters marks"]
    assert found["rounded marks"]
    assert found["unrounded"] == 0.0


def test_what_one_process_cannot_do_none_has_done(pair: dict[str, Any]) -> None:
    found = pair["agreed"]
    assert found["values"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "ü"}]
    assert found["error"] == "process 1 could not do its part of a checkpoint: no space left"
    assert found["code"] == 70, "that of an error without a name"
    assert found["after"] == [0, 1]
