"""Preparation killed with SIGKILL goes on where it was; workers make what one process makes and end with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from rewarm_trainer.corpus import pool
from rewarm_trainer.corpus.prepare import Prepared, prepare

FILES = 5
PROGRAM = """
import os, pathlib, signal, sys
from rewarm_api.resolve import resolve
from rewarm_api.manifest import read_manifest
from rewarm_api.validate import validate
from rewarm_trainer.corpus import pool, scan, tokenise
from rewarm_trainer.corpus.prepare import prepare

def run(root, progress=lambda *_: None):
    checked = validate(read_manifest(root / "run.json"), local=True)
    return prepare(resolve(checked.run, uid="u"), root=root, cache=root / "cache", tokenizer=None, progress=progress)
"""
KILL_ITSELF = """
def counted(module, name, last):
    whole, calls = getattr(module, name), []
    def part(*arguments):
        calls.append(1)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments)
    setattr(module, name, part)

module, name = {"scan": (scan, "read_unit"), "tokenise": (tokenise, "write_piece")}[sys.argv[2]]
counted(module, name, 3)
run(pathlib.Path(sys.argv[1]))
"""
WAIT_FOR_THE_END = """
def progress(stage, source, done, total, unit):
    if stage == "scan" and 0 < done:
        print("under way", flush=True)

if __name__ == "__main__":
    pool.SMALL = 0
    run(pathlib.Path(sys.argv[1]), progress)
"""


def manifest() -> dict[str, Any]:
    spec = {
        "baseModel": {"scratch": {"config": {"model_type": "llama"}, "tokenizer": {"vocabularySize": 300}}},
        "corpus": {"sources": [{"name": "new", "uri": "parts/*.jsonl"}]},
        "schedule": {"peakLearningRate": 1e-3},
        "budget": {"tokens": 4096},
        "training": {"sequenceLength": 16, "globalBatchTokens": 256},
        "evaluation": {"heldOut": {"minimumDocuments": 8}},
    }
    return {"apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun", "metadata": {"name": "demo"}, "spec": spec}


def corpus(root: Path, documents: int) -> Path:
    (root / "parts").mkdir(parents=True)
    for number in range(FILES):
        lines = (json.dumps({"text": f"{number} {line} " + "ab cd ef gh " * 20}) for line in range(documents))
        (root / f"parts/{number}.jsonl").write_text("\n".join(lines))
    (root / "run.json").write_text(json.dumps(manifest()))
    return root


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    path = Path(arguments[0]) / "program.py"
    path.write_text(PROGRAM + program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    command = [sys.executable, str(path), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)


def prepare_here(root: Path) -> Prepared:
    from rewarm_api.resolve import resolve
    from rewarm_api.validate import validate

    run = validate(manifest(), local=True).run
    assert run is not None
    return prepare(resolve(run, uid="u"), root=root, cache=root / "cache", tokenizer=None)


def contents(prepared: Prepared) -> dict[str, bytes]:
    folders = [*prepared.source_folders.values(), *prepared.set_folders.values()]
    return {f"{folder.name}/{path.name}": path.read_bytes() for folder in folders for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("stage", "kind", "name"), [("scan", "scans", "unit.json"), ("tokenise", "work", "piece.json")]
)
def test_files_that_were_done_are_not_done_again(
    tmp_path: Path, stage: str, kind: str, name: str, monkeypatch: Any
) -> None:
    """Killed in the third of five files: two pieces stand, three are made, the outcome is that of an unbroken run."""
    from rewarm_trainer.corpus import scan, tokenise

    root = corpus(tmp_path / "killed", documents=60)
    process = start(KILL_ITSELF, str(root), stage)
    assert process.wait(timeout=120) == -signal.SIGKILL
    done = [path for path in (root / "cache" / kind).rglob(name) if not path.parent.name.startswith(".")]
    assert len(done) == 2
    module, function = {"scan": (scan, "read_unit"), "tokenise": (tokenise, "write_piece")}[stage]
    whole, calls = getattr(module, function), []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(module, function, counted)
    resumed = prepare_here(root)
    assert len(calls) == FILES - 2
    monkeypatch.undo()
    unbroken = prepare_here(corpus(tmp_path / "unbroken", documents=60))
    assert contents(resumed) == contents(unbroken)
    assert resumed.pins == unbroken.pins


def test_processes_make_what_one_makes(tmp_path: Path, monkeypatch: Any) -> None:
    alone = prepare_here(corpus(tmp_path / "alone", documents=60))
    monkeypatch.setattr(pool, "SMALL", 0)
    monkeypatch.setattr(pool, "available_cores", lambda: 2)
    together = prepare_here(corpus(tmp_path / "together", documents=60))
    assert contents(together) == contents(alone)
    assert together.pins == alone.pins


def test_an_error_in_a_process_is_the_error_of_the_run(tmp_path: Path, monkeypatch: Any) -> None:
    from rewarm_api.errors import DataError

    root = corpus(tmp_path, documents=60)
    with (root / "parts/3.jsonl").open("a") as stream:
        stream.write("\n{")
    monkeypatch.setattr(pool, "SMALL", 0)
    monkeypatch.setattr(pool, "available_cores", lambda: 2)
    with pytest.raises(DataError, match=r"parts/3\.jsonl, line 61: not JSON"):
        prepare_here(root)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    process = start(WAIT_FOR_THE_END, str(corpus(tmp_path, documents=20_000)))
    assert process.stdout is not None
    assert process.stdout.readline() == "under way\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.kill()
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
