"""Work folders of finished runs, copied, cut back and damaged: a test needs no training of its own for them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path


def copied(source: Path, target: Path) -> Path:
    """A private copy of a work folder; its links into the cache stay links."""
    shutil.copytree(source, target, symlinks=True)
    return target


def cut_back(source: Path, target: Path, step: int) -> Path:
    """A copy of a finished work folder as if it had been killed just after it committed `step`."""
    copied(source, target)
    for name in ("report.json", "report.html", "model-card.md"):
        (target / name).unlink()
    for folder in (target / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    assert (target / "checkpoints" / f"step-{step:08d}" / "COMMITTED").exists()
    return target


def flip_byte(path: Path, place: int | None = None) -> None:
    """Turns one bit of a file; in the middle unless told where."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
