"""How anything gets onto a disk: written beside its place, flushed, then moved there in one step.

A reader therefore finds a file or a folder either whole or not at all, whatever was killed when.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rewarm_api.errors import DependencyError
from rewarm_trainer.faults import reached

# A quota and a limit on file sizes are the same event for a user as a full disk: nothing more can be written here.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def finite(value: Any) -> Any:
    """The same JSON value with every number that is not finite replaced by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or quota into DependencyError (75): clearing helps, editing the manifest does not."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DependencyError(
                f"{path}: disk full while writing ({os.strerror(error.errno or 0)}); free some space, then start "
                "the same command again: it goes on from what is whole"
            ) from error
        raise


def is_plain_name(name: str) -> bool:
    """Whether this names a file of the folder it is used in, and no other place: what others wrote down may not be."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def beside(target: Path) -> Path:
    """A name of our own in the same folder, hidden, so that a rename never crosses file systems."""
    return target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.tmp"


def flush(path: Path) -> None:
    """Makes a file's bytes, or a folder's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(target: Path, data: bytes) -> None:
    """Replaces `target` atomically and durably."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(target)
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            reached("write.beside")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        flush(target.parent)


def write_json(target: Path, value: Any) -> None:
    """`value` as indented JSON, atomically; numbers that are not finite become null."""
    text = json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(target, text.encode() + b"\n")


def publish_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """Makes `target` by letting `fill` write into a private folder that is then moved there.

    A folder that exists already is whole by construction and is left alone; whoever loses a race adopts the winner's.
    """
    if target.is_dir():
        return target
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(target)
        temporary.mkdir()
        try:
            fill(temporary)
            for path in sorted(temporary.rglob("*")):
                flush(path)
            flush(temporary)
            try:
                os.rename(temporary, target)
            except OSError:
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        flush(target.parent)
    return target


def write_json_file(path: Path, value: Any) -> None:
    """A file inside a staged folder: synced, so that the marker can never reach the disk before it."""
    write_bytes_file(path, json.dumps(value, indent=1).encode())


def write_bytes_file(path: Path, data: bytes) -> None:
    with disk_errors(path), open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy_files(sources: Iterable[Path], folder: Path) -> None:
    """Copy small files (tokenizer, configuration) into a staged folder."""
    for path in sources:
        write_bytes_file(folder / path.name, path.read_bytes())
