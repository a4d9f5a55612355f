"""Files by key in a folder: each appears whole or not at all, and is on the disk when a call returns."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rewarm_api.errors import MissingInputError
from rewarm_trainer.faults import reached
from rewarm_trainer.files import beside, disk_errors, flush, write_bytes
from rewarm_trainer.storage_protocol import Entry, NoConditions, Unfinished

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalStorage:
    """A folder. It need not exist before the first write.

    `address`: how others know it (`claim://NAME/path`), where that is not its path.
    """

    def __init__(self, root: Path, address: str = "") -> None:
        self.root = root.absolute()
        self._address = address.rstrip("/")

    def uri(self, key: str) -> str:
        if self._address:
            return f"{self._address}/{key}" if key else self._address
        return str(self._path(key)) if key else str(self.root)

    def _path(self, key: str) -> Path:
        if ".." in key.split("/") or key.startswith("/"):
            raise ValueError(f"key {key!r} leaves its storage")
        return self.root / key

    @contextmanager
    def _present(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        try:
            yield path
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise MissingInputError(f"{path}: no such file") from error

    def put(self, key: str, data: bytes) -> None:
        write_bytes(self._path(key), data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        temporary = beside(target)
        try:
            write_bytes(temporary, data)
            with disk_errors(target):
                os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise NoConditions(
                    f"{target}: this file system has no hard links ({os.strerror(error.errno or 0)}), so a file cannot "
                    "be written only if none is there; use another"
                ) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
        flush(target.parent)
        return True

    def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_whole(path, target)
            flush(target.parent)

    def get(self, key: str) -> bytes:
        with self._present(key) as path:
            return path.read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._present(key) as path, path.open("rb") as stream:
            stream.seek(start)
            return stream.read(length)

    def get_file(self, key: str, path: Path) -> None:
        with self._present(key) as source:
            source.stat()
            path.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(path):
                copy_whole(source, path)

    def list(self, prefix: str) -> list[Entry]:
        folder = self.root / prefix.rpartition("/")[0]
        entries = []
        for path in folder.rglob("*") if folder.is_dir() else ():
            key = path.relative_to(self.root).as_posix()
            # Names that begin with a dot are writes under way.
            if key.startswith(prefix) and not path.name.startswith(".") and path.is_file():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    entries.append(Entry(key, status.st_size, modified=status.st_mtime))
        return sorted(entries, key=lambda entry: entry.key)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            flush(path.parent)

    def delete_prefix(self, prefix: str) -> None:
        if prefix.endswith("/") and self._path(prefix).is_dir():
            shutil.rmtree(self._path(prefix))
            return
        for entry in self.list(prefix):
            self.delete(entry.key)

    def unfinished(self, prefix: str) -> list[Unfinished]:
        folder = self.root / prefix.rpartition("/")[0]
        found = []
        for path in folder.rglob(".*.tmp") if folder.is_dir() else ():
            key = (path.parent / path.name[1:].rsplit(".", 2)[0]).relative_to(self.root).as_posix()
            if key.startswith(prefix):
                with suppress(FileNotFoundError):
                    found.append(Unfinished(key, path.stat().st_mtime, path.relative_to(self.root).as_posix()))
        return sorted(found, key=lambda write: write.handle)

    def abandon(self, write: Unfinished) -> None:
        self._path(write.handle).unlink(missing_ok=True)


def copy_whole(source: Path, target: Path) -> None:
    """Copies a file so that `target` is either the old one or the whole new one, and on the disk."""
    temporary = beside(target)
    try:
        shutil.copyfile(source, temporary)
        flush(temporary)
        reached("write.beside")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
