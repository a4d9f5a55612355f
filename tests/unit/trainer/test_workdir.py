"""The work folder: one writer, a snapshot that nobody edits, a log that survives torn lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rewarm_api.errors import DependencyError, ManifestError
from rewarm_api.resolve import resolve
from rewarm_api.snapshot import Snapshot
from rewarm_api.validate import validate
from rewarm_trainer.runlog import read_records
from rewarm_trainer.workdir import RunLog, WorkFolder, read_snapshot, write_snapshot


def snapshot() -> Snapshot:
    document = {
        "apiVersion": "rewarm.dev/v1alpha1",
        "kind": "ContinualRun",
        "metadata": {"name": "demo"},
        "spec": {
            "baseModel": {"scratch": {"config": {"model_type": "llama"}, "tokenizer": {"vocabularySize": 300}}},
            "corpus": {"sources": [{"name": "new", "uri": "new.jsonl"}]},
            "schedule": {"peakLearningRate": 1e-3},
            "budget": {"tokens": 4096},
            "training": {"sequenceLength": 16, "globalBatchTokens": 256},
        },
    }
    validation = validate(document, local=True)
    assert validation.run is not None, validation.problems
    return resolve(validation.run, uid="u")


def test_of_two_writers_the_second_is_refused(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    descriptor = work.lock()
    with pytest.raises(DependencyError, match="another process is writing this work folder") as caught:
        WorkFolder(tmp_path).lock()
    assert caught.value.exit_code == 75
    assert "--workdir" in str(caught.value)
    os.close(descriptor)
    os.close(WorkFolder(tmp_path).lock())


def test_the_lock_lives_as_long_as_any_process_that_inherited_it(tmp_path: Path) -> None:
    descriptor = WorkFolder(tmp_path).lock()
    child = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=(descriptor,), stdin=subprocess.PIPE)
    os.close(descriptor)
    with pytest.raises(DependencyError):
        WorkFolder(tmp_path).lock()
    child.communicate(b"\n")
    os.close(WorkFolder(tmp_path).lock())


def test_a_snapshot_reads_back_with_its_digest(tmp_path: Path) -> None:
    work, written = WorkFolder(tmp_path), snapshot()
    write_snapshot(work, written)
    assert read_snapshot(work) == written
    assert json.loads(work.snapshot.read_text())["digest"] == written.digest
    assert written.digest.startswith("sha256:")


def test_an_edited_snapshot_is_refused(tmp_path: Path) -> None:
    work, written = WorkFolder(tmp_path), snapshot()
    write_snapshot(work, written)
    value = json.loads(work.snapshot.read_text())
    value["training"]["seed"] = 99
    work.snapshot.write_text(json.dumps(value))
    with pytest.raises(ManifestError, match="history is immutable") as caught:
        read_snapshot(work)
    assert caught.value.exit_code == 64
    assert written.digest in str(caught.value)


def test_a_torn_last_line_is_closed_first(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    log.write({"step": 1, "loss": 2.5})
    log.close()
    with path.open("a") as torn:
        torn.write('{"step": 2, "lo')
    log = RunLog(path)
    log.write({"step": 2, "loss": 2.25})
    log.sync()
    log.close()
    assert [(line["step"], line["loss"]) for line in read_records(path)] == [(1, 2.5), (2, 2.25)]
    assert path.read_text().endswith("\n")


def test_a_log_is_strict_json_even_for_numbers_that_are_not(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    log.write({"loss": float("nan"), "losses": {"new": float("inf"), "old": 1.0}})
    log.close()
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=pytest.fail)
    assert record["loss"] is None
    assert record["losses"] == {"new": None, "old": 1.0}
    assert record["time"] > 1.7e9
