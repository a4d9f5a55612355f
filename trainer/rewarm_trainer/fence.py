"""One writer: each start claims the next epoch under `fence/`, and only the newest epoch may write.

An epoch is claimed by writing a file that must not be there yet, so the store has to honour that condition.
"""

from __future__ import annotations

import json
from typing import Any

from rewarm_api.errors import DependencyError, ManifestError, Problem
from rewarm_trainer.faults import reached
from rewarm_trainer.storage_protocol import NoConditions, Storage


class Fence:
    """The fence of one store. `single_writer`: the manifest vouches that there is never a second writer."""

    def __init__(self, store: Storage, single_writer: bool) -> None:
        self._store, self._single_writer = store, single_writer
        self.epoch = 0

    def claim(self, who: dict[str, Any]) -> str:
        """Become the newest; the key that says so. ManifestError (64) for a store without conditional writes."""
        data = json.dumps(who).encode()
        while True:
            epoch = self._newest() + 1
            key = f"fence/{epoch:08d}"
            reached("claim.before")
            if not self.put_new(key, data):
                continue
            reached("claim.after")
            # A store that passes over the condition takes the same again.
            if not self._single_writer and self.put_new(key, data):
                raise self._refused("takes a second write with If-None-Match: *")
            self.epoch = epoch
            return key

    def check(self) -> None:
        """DependencyError (75) once a newer writer has claimed this store."""
        newest = self._newest()
        if newest != self.epoch:
            raise DependencyError(
                f"{self._store.uri('')}: writer {newest} took over from this one ({self.epoch}); "
                "this one stops and commits nothing; let the newer one run, or give this run its own checkpoints.uri"
            )

    def put_new(self, key: str, data: bytes) -> bool:
        """Write a file that must not be there; False when it is."""
        if self._single_writer:
            if self._store.exists(key):
                return False
            self._store.put(key, data)
            return True
        try:
            return self._store.put_if_absent(key, data)
        except NoConditions as error:
            raise self._refused(f"refuses conditional writes ({error})") from error

    def _newest(self) -> int:
        return max((int(entry.key.rsplit("/", 1)[1]) for entry in self._store.list("fence/")), default=0)

    def _refused(self, why: str) -> ManifestError:
        return ManifestError(
            Problem(
                "spec.checkpoints.uri",
                f"{self._store.uri('')}, which {why}",
                "a store that writes a file only if none is there: that keeps a second writer from harming checkpoints",
                "use another store, or set spec.checkpoints.singleWriter: true and never start this run twice",
            )
        )
