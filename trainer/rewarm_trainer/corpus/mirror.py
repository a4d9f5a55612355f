"""The cache that machines share: folders of the local cache copied to `spec.cache.uri` and back, whole or not at all.

Only finished, content-addressed folders travel: token shards, evaluation sets, tokenizers. `COMMITTED` is written last
and lists what belongs to a folder; without it nothing is there.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rewarm_api.errors import DependencyError
from rewarm_trainer.corpus.fetch import content_digest
from rewarm_trainer.files import is_plain_name, publish_folder

if TYPE_CHECKING:
    from rewarm_trainer.storage import Storage

MARKER = "COMMITTED"

log = logging.getLogger(__name__)


class Mirror:
    """A shared cache behind the local one. `storage` None: there is none, and nothing is done."""

    def __init__(self, cache: Path, storage: Storage | None) -> None:
        self._cache, self._storage = cache, storage

    def _key(self, folder: Path) -> str:
        return folder.relative_to(self._cache).as_posix()

    def _listed(self, key: str) -> dict[str, str]:
        """Names and digests as the marker of a folder has them. Others write there too: what is no list of plain
        names is nothing."""
        assert self._storage is not None
        try:
            listed = json.loads(self._storage.get(f"{key}/{MARKER}"))
        except ValueError:
            listed = None
        if isinstance(listed, dict) and all(is_plain_name(name) for name in listed):
            return listed
        log.warning("shared cache: %s is no list of files; preparing it here instead", self._storage.uri(key))
        self._storage.delete(f"{key}/{MARKER}")
        return {}

    def fetch(self, folder: Path | None) -> None:
        """Brings a folder that another machine has made; a damaged copy is passed over and made again here."""
        if self._storage is None or folder is None or folder.is_dir():
            return
        storage, key = self._storage, self._key(folder)
        if not storage.exists(f"{key}/{MARKER}"):
            return
        files = self._listed(key)

        def fill(place: Path) -> None:
            for name, digest in files.items():
                storage.get_file(f"{key}/{name}", place / name)
                if content_digest(place / name) != digest:
                    raise ValueError(f"{storage.uri(f'{key}/{name}')}: its sha256 is not {digest}")

        if not files:
            return
        try:
            publish_folder(folder, fill)
        except ValueError as error:
            storage.delete(f"{key}/{MARKER}")
            log.warning("shared cache: %s; preparing it here instead", error)

    def fetch_file(self, folder: Path, name: str) -> Path | None:
        """One file of a folder that is too large to bring whole; None where neither cache has it."""
        target = folder / name
        if target.exists() or self._storage is None or folder.is_dir():
            return target if target.exists() else None
        storage, key = self._storage, self._key(folder)
        listed = self._listed(key) if storage.exists(f"{key}/{MARKER}") else {}
        if name not in listed:
            return None
        alone = self._cache / "files" / listed[name] / name
        if not alone.exists():
            alone.parent.mkdir(parents=True, exist_ok=True)
            storage.get_file(f"{key}/{name}", alone)
        return alone

    def store(self, folder: Path | None) -> None:
        """Gives a finished folder to the others. A shared cache that cannot be written does not stop the run."""
        if self._storage is None or folder is None:
            return
        key = self._key(folder)
        try:
            if self._storage.exists(f"{key}/{MARKER}"):
                return
            files = {path.name: path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
            for name, path in files.items():
                self._storage.put_file(f"{key}/{name}", path)
            listing = {name: content_digest(path) for name, path in files.items()}
            self._storage.put(f"{key}/{MARKER}", json.dumps(listing, sort_keys=True).encode())
        except DependencyError as error:
            log.warning("shared cache: %s; the run goes on with the local cache", error)
