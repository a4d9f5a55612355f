"""The stored folder of a run: what comes back is what was whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewarm_api.errors import DependencyError
from rewarm_trainer.storage import LocalStorage
from rewarm_trainer.stored import StoredRun
from rewarm_trainer.workdir import WorkFolder

FILES = {
    "snapshot.json": b"{}",
    "pins.json": b'{"pins": 1}',
    "log.jsonl": b'{"step": 1}\n',
    "state/spool/points.jsonl": b'{"t": 1}\n',
    "state/spool/receipt.json": b'{"acknowledged": 0}',
    "state/baseline/code.json": b'{"nats": [1]}',
    "state/looks/step-00000001/code.json": b'{"nats": [2]}',
    "tokenizer/tokenizer.json": b"{}",
    "report.json": b'{"outcome": "Preempted"}',
}


def filled(root: Path, files: dict[str, bytes] = FILES) -> WorkFolder:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return WorkFolder(root)


def restored(store: Path, target: Path) -> tuple[dict[str, bytes], list[str]]:
    warnings: list[str] = []
    StoredRun(LocalStorage(store), WorkFolder(target)).restore(warnings.append)
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    return found, warnings


def test_everything_small_comes_back_and_nothing_large_goes(tmp_path: Path) -> None:
    work = filled(tmp_path / "work", {**FILES, "state/staging/step-1/model.safetensors": b"large", "state/lock": b""})
    StoredRun(LocalStorage(tmp_path / "run"), work).save()
    assert restored(tmp_path / "run", tmp_path / "new") == (FILES, [])
    assert not (tmp_path / "run" / "state" / "staging").exists()


def test_only_what_changed_is_written_again(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path / "run")
    work = filled(tmp_path / "work")
    stored = StoredRun(store, work)
    stored.save()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    stored.save()
    with work.log.open("ab") as log:
        log.write(b'{"step": 2}\n')
    stored.save()
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} == {"log.jsonl", "index.json"}
    assert restored(tmp_path / "run", tmp_path / "new")[0]["log.jsonl"] == b'{"step": 1}\n{"step": 2}\n'


class Dies(LocalStorage):
    """A store whose writer is killed after some writes."""

    def __init__(self, root: Path, writes: int) -> None:
        super().__init__(root)
        self.left = writes

    def put(self, key: str, data: bytes) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        super().put(key, data)


@pytest.mark.parametrize("writes", range(len(FILES) + 1))
def test_an_upload_cut_off_anywhere_leaves_a_folder_that_can_be_used(tmp_path: Path, writes: int) -> None:
    work = filled(tmp_path / "work")
    StoredRun(LocalStorage(tmp_path / "run"), work).save()
    newer = {
        **{name: data + b" " for name, data in FILES.items()},
        "log.jsonl": FILES["log.jsonl"] + b'{"step": 2}\n',
        "state/spool/points.jsonl": FILES["state/spool/points.jsonl"] + b'{"t": 2}\n',
    }
    filled(tmp_path / "work", newer)
    with pytest.raises(KeyboardInterrupt):
        StoredRun(Dies(tmp_path / "run", writes), work).save()
    found, warnings = restored(tmp_path / "run", tmp_path / "new")
    for name, data in found.items():
        grows = name in ("log.jsonl", "state/spool/points.jsonl")
        assert data in ((FILES[name], newer[name]) if grows else (FILES[name],)), name
    assert {"log.jsonl", "state/spool/points.jsonl"} <= set(found), "history that only grew is never lost"
    missing = set(FILES) - set(found)
    assert len(warnings) == len(missing)


def test_an_upload_cut_off_before_its_first_index_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        StoredRun(Dies(tmp_path / "run", 3), filled(tmp_path / "work")).save()
    assert restored(tmp_path / "run", tmp_path / "new") == ({}, [])


def test_a_damaged_file_is_not_believed(tmp_path: Path) -> None:
    StoredRun(LocalStorage(tmp_path / "run"), filled(tmp_path / "work")).save()
    (tmp_path / "run" / "pins.json").write_bytes(b'{"pins": 2}')
    (tmp_path / "run" / "log.jsonl").write_bytes(b'{"step": 9}\n')
    found, warnings = restored(tmp_path / "run", tmp_path / "new")
    assert set(FILES) - set(found) == {"pins.json", "log.jsonl"}
    assert "pins.json: missing, or not as index.json says" in warnings[0]


def test_an_index_names_our_files_only(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path / "run")
    entry = {"size": 1, "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}
    for name in ("../escaped", "state/lock", "other.txt"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(b"a")
    store.put(
        "index.json", json.dumps({"files": dict.fromkeys(("../escaped", "state/lock", "other.txt"), entry)}).encode()
    )
    assert restored(tmp_path / "run", tmp_path / "new") == ({}, [])


def test_what_lies_in_the_work_folder_wins(tmp_path: Path) -> None:
    StoredRun(LocalStorage(tmp_path / "run"), filled(tmp_path / "work")).save()
    filled(tmp_path / "new", {"log.jsonl": b"newer"})
    assert restored(tmp_path / "run", tmp_path / "new")[0] == {**FILES, "log.jsonl": b"newer"}


def test_a_writer_that_was_overtaken_writes_nothing(tmp_path: Path) -> None:
    def overtaken() -> None:
        raise DependencyError("writer 2 took over")

    with pytest.raises(DependencyError, match="took over"):
        StoredRun(LocalStorage(tmp_path / "run"), filled(tmp_path / "work"), overtaken).save()
    assert not (tmp_path / "run").exists()
