"""What crashed writers leave: shown by a listing, removed by the current writer, never what a newer one writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rewarm_api.errors import DependencyError
from rewarm_trainer.checkpoint import MARKER, Checkpoints, audit, folder_name
from rewarm_trainer.orphans import GRACE_SECONDS, Orphans
from rewarm_trainer.storage import LocalStorage, Unfinished

LONG_AGO = 1_000_000_000


def leave(root: Path, step: int, *, temporary: bool = False, old: bool = True) -> Path:
    """A file of a commit that never came to its marker."""
    folder = root / "checkpoints" / folder_name(step)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (".model.safetensors.0123456789ab.tmp" if temporary else "model.safetensors")
    path.write_bytes(b"half")
    if old:
        os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def opened(root: Path) -> Checkpoints:
    return Checkpoints(LocalStorage(root / "checkpoints"), root / "state" / "staging")


def commit(checkpoints: Checkpoints, step: int) -> None:
    folder = checkpoints.stage(step)
    (folder / "state.json").write_bytes(b"{}")
    checkpoints.commit(step, step, folder)


class Writer:
    """The current writer of a folder, whose clock is moved by hand."""

    def __init__(self, root: Path) -> None:
        self.now = 0.0
        self.checkpoints = opened(root)
        self.checkpoints.orphans = Orphans(LocalStorage(root / "checkpoints"), clock=lambda: self.now)
        self.checkpoints.claim({"pid": 1})


def test_a_listing_shows_them(tmp_path: Path) -> None:
    leave(tmp_path, 4)
    leave(tmp_path, 8, temporary=True)
    assert [(entry["step"], entry["committed"], entry["reason"]) for entry in audit(tmp_path, verify=True)] == [
        (4, False, f"no {MARKER} marker"),
        (8, False, f"no {MARKER} marker; 1 writes begun and never ended"),
    ]


def test_they_go_after_the_grace_period_and_not_before(tmp_path: Path) -> None:
    left = [leave(tmp_path, 4), leave(tmp_path, 8, temporary=True)]
    writer = Writer(tmp_path)
    commit(writer.checkpoints, 12)
    writer.checkpoints.prune(1, None)
    assert all(path.exists() for path in left)
    writer.now = GRACE_SECONDS
    writer.checkpoints.prune(1, None)
    assert not any(path.exists() for path in left)
    assert writer.checkpoints.verify(12).step == 12


def test_what_was_written_since_the_claim_stays(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    # A clock that stood still within the file system's resolution would make this test pass by itself.
    fence = tmp_path / "checkpoints" / "fence" / "00000001"
    young = leave(tmp_path, 4, old=False)
    os.utime(young, (fence.stat().st_mtime + 1, fence.stat().st_mtime + 1))
    writer.now = GRACE_SECONDS
    writer.checkpoints.prune(1, None)
    assert young.exists()


def test_without_the_right_to_list_uploads_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Closed(LocalStorage):
        def unfinished(self, prefix: str) -> list[Unfinished]:
            raise DependencyError("s3://runs/: the store answered AccessDenied; check the credentials and their rights")

    left = leave(tmp_path, 4)
    writer = Writer(tmp_path)
    writer.checkpoints.orphans = Orphans(Closed(tmp_path / "checkpoints"), clock=lambda: writer.now)
    writer.checkpoints.orphans.claimed("fence/00000001")
    writer.now = GRACE_SECONDS
    writer.checkpoints.prune(1, None)
    assert not left.exists()
    assert "uploads that never ended cannot be listed, and stay" in caplog.text


def test_a_writer_that_was_overtaken_removes_nothing(tmp_path: Path) -> None:
    left = leave(tmp_path, 4)
    old = Writer(tmp_path)
    opened(tmp_path).claim({"pid": 2})
    old.now = GRACE_SECONDS
    with pytest.raises(DependencyError, match="writer 2 took over"):
        old.checkpoints.orphans.sweep(old.checkpoints.check_fence, ())
    assert left.exists()
