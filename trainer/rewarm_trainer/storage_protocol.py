"""What every place that holds files by key promises: folders and buckets alike. Only names; no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rewarm_api.errors import DependencyError


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a listing.

    key: below the root. size: bytes. version: the entity tag where the store has one. modified: Unix seconds, by the
    store's own clock; no part of what the file is.
    """

    key: str
    size: int
    version: str = ""
    modified: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A write that began and never ended: parts of an upload, or a file beside its place.

    key: what it was to become. began: Unix seconds, by the store's clock. handle: the store's own name for it.
    """

    key: str
    began: float
    handle: str


class Storage(Protocol):
    """Files by key. Keys are relative, with slashes; a prefix is any beginning of a key."""

    def uri(self, key: str) -> str:
        """Where a key lies, for messages and records."""

    def put(self, key: str, data: bytes) -> None:
        """Writes or replaces a file."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes a file unless one is there; of many callers exactly one is told True.

        NoConditions (75) where the store refuses to write on a condition; one that passes over it tells everybody True.
        """

    def put_file(self, key: str, path: Path) -> None:
        """Writes or replaces a file by a copy of a local one."""

    def get(self, key: str) -> bytes:
        """The content of a file."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes from byte `start`; fewer at the end of the file."""

    def get_file(self, key: str, path: Path) -> None:
        """Copies a file to a local path, which is replaced only by the whole."""

    def list(self, prefix: str) -> list[Entry]:
        """All files whose key begins with `prefix`, sorted by key."""

    def exists(self, key: str) -> bool:
        """Whether a file is there."""

    def delete(self, key: str) -> None:
        """Removes a file; nothing happens when it is not there."""

    def delete_prefix(self, prefix: str) -> None:
        """Removes every file whose key begins with `prefix`."""

    def unfinished(self, prefix: str) -> list[Unfinished]:
        """Writes of keys that begin with `prefix` which somebody began: killed, or still at it."""

    def abandon(self, write: Unfinished) -> None:
        """Gives the space of an unfinished write back; nothing happens when it has ended by now."""


class NoConditions(DependencyError):
    """The store cannot write a file only if none is there."""
