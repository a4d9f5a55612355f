"""What crashed writers leave in a store: files of checkpoints that were never committed, and writes that never ended.

They take space for ever and are believed by nobody. The current writer removes those that were last written before it
claimed the fence, after a grace period: an upload of the writer before it may still be on its way.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Collection

from rewarm_api.errors import DependencyError, MissingInputError
from rewarm_trainer.storage_protocol import Storage, Unfinished

logger = logging.getLogger("rewarm.storage")

GRACE_SECONDS = 3600.0
"""From a writer's claim to its first look for orphans, and from there to the next."""
_STEP = re.compile(r"(step-\d{8,})/")


class Orphans:
    """Orphans among the checkpoints of one store. What was written when goes by the store's own clock."""

    def __init__(self, store: Storage, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._claimed: float | None = None
        self._next = 0.0

    def claimed(self, key: str) -> None:
        """This writer has just written `key` and thereby become the newest."""
        written = next((entry.modified for entry in self._store.list(key) if entry.key == key), None)
        self._claimed, self._next = written, self._clock() + GRACE_SECONDS

    def begun(self) -> Counter[str]:
        """Writes that never ended, by folder of a checkpoint."""
        places = (_STEP.match(write.key) for write in self._unfinished())
        return Counter(place.group(1) for place in places if place)

    def _unfinished(self) -> list[Unfinished]:
        """Nothing where the store cannot list them, or we may not: no run ends for want of a right to tidy up."""
        try:
            return self._store.unfinished("step-")
        except (DependencyError, MissingInputError) as error:
            logger.warning(f"uploads that never ended cannot be listed, and stay: {error}")
            return []

    def _abandon(self, write: Unfinished) -> bool:
        try:
            self._store.abandon(write)
        except DependencyError as error:
            logger.warning(f"an upload that never ended stays: {error}")
            return False
        return True

    def sweep(self, check_fence: Callable[[], None], committed: Collection[str]) -> list[str]:
        """Remove what was left before our claim, once the grace period is over; returns what went.

        `check_fence` raises when a newer writer took over: what lies there then is its own.
        """
        if self._claimed is None or self._clock() < self._next:
            return []
        self._next = self._clock() + GRACE_SECONDS
        return self._remove_before(self._claimed, check_fence, committed)

    def _remove_before(self, moment: float, check_fence: Callable[[], None], committed: Collection[str]) -> list[str]:
        gone = []
        for write in self._unfinished():
            if write.began < moment:
                check_fence()
                gone += [write.key] if self._abandon(write) else []
        newest: dict[str, float] = {}
        for entry in self._store.list("step-"):
            if place := _STEP.match(entry.key):
                newest[place.group(1)] = max(newest.get(place.group(1), 0.0), entry.modified)
        for folder, modified in newest.items():
            if modified < moment and folder not in committed and not self._store.exists(f"{folder}/COMMITTED"):
                check_fence()
                self._store.delete_prefix(f"{folder}/")
                gone.append(folder)
        return gone
