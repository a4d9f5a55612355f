"""Lists and watches that keep the store true, without kopf: Jobs, Pods, ConfigMaps, Services, and Kueue's Workloads.

A watch is believed only as far as it goes: it ends by its own time limit, a silent one by a read timeout, an expired
one (410) by a new list, and every `resync_seconds` a list of metadata is compared with the store, object by object,
because a deletion that no watch told is told by nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence

from rewarm_operator import trim
from rewarm_operator.cluster import ApiError, Cluster, Json
from rewarm_operator.resources import CHILDREN, KUEUE_GROUP, RUN, STUDY, UID_LABEL, Resource, revision, workload
from rewarm_operator.store import Store

log = logging.getLogger("rewarm.informers")

LONGEST_WATCH_SECONDS = 300
DISCOVERY_SECONDS = 30.0
MOST_LOOKS = 50
"""Differences up to which objects are asked for one by one; beyond that, one whole list is cheaper."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0


class Informer:
    """One resource in one namespace (None: all): listed, then watched, for ever."""

    def __init__(
        self, cluster: Cluster, store: Store, resource: Resource, namespace: str | None, *, watch_seconds: int
    ) -> None:
        self.resource, self.namespace = resource, namespace
        self.synced = asyncio.Event()
        self._cluster, self._store = cluster, store
        self._selector = UID_LABEL if resource in CHILDREN else ""
        self._watch_seconds = watch_seconds
        self._is_missing = False

    async def run(self) -> None:
        failures = 0
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                    self.synced.set()
                async for kind, item in self._cluster.watch(
                    self.resource, self.namespace, self._selector, version, self._watch_seconds
                ):
                    version = str(item["metadata"].get("resourceVersion") or version)
                    failures = 0
                    self._take(kind, item)
            except ApiError as error:
                if error.status == 410:
                    # Too much has happened since that version: only a list can tell what is there now.
                    version = ""
                    continue
                failures += 1
                wait = max(backoff(failures), error.retry_after or 0.0)
                log.warning("%s: %s; trying again in %.1f s", self._name, error, wait)
                await asyncio.sleep(wait)

    async def compare(self) -> int:
        """How many objects the watches had missed: those are put right by this."""
        known = self._store.versions(self.resource.kind, self.namespace)
        try:
            items, _ = await pages(
                self._cluster, self.resource, self.namespace, self._selector, trim.identity, metadata_only=True
            )
        except ApiError as error:
            if self.resource is not STUDY or error.status not in (403, 404):
                raise
            # A chart without their CRD, or a Role from before them: runs must go on all the same.
            if not self._is_missing:
                log.warning("%s: %s; studies wait until they can be listed", self._name, error)
            self._is_missing = True
            return 0
        self._is_missing = False
        listed = {item["metadata"]["uid"]: item for item in items}
        # Not in the list: made after it was taken, or gone. Only asking tells.
        doubtful = [item for uid, item in known.items() if uid not in listed]
        doubtful += [item for uid, item in listed.items() if uid not in known or revision(known[uid]) < revision(item)]
        if len(doubtful) > MOST_LOOKS:
            await self._list()
            return len(doubtful)
        missed = 0
        for item in doubtful:
            missed += await self._look(item)
        return missed

    async def _look(self, item: Json) -> bool:
        """Ask for one object; True when the store did not have it as it is."""
        metadata = item["metadata"]
        before = self._store.versions(self.resource.kind, metadata["namespace"]).get(metadata["uid"])
        try:
            found = await self._cluster.get(self.resource, metadata["namespace"], metadata["name"])
        except ApiError as error:
            if error.status != 404:
                raise
            found = None
        if found is not None and found["metadata"]["uid"] == metadata["uid"]:
            if before is not None and revision(before) >= revision(found):
                return False
            self._store.put(self.resource.kind, found)
            return True
        if before is None:
            return False
        self._store.remove(self.resource.kind, before)
        return True

    async def _list(self) -> str:
        keep = trim.TRIMMERS[self.resource.kind]
        items, version = await pages(self._cluster, self.resource, self.namespace, self._selector, keep)
        present = {item["metadata"]["uid"] for item in items}
        for uid, item in self._store.versions(self.resource.kind, self.namespace).items():
            if uid not in present and revision(item) <= int(version):
                self._store.remove(self.resource.kind, item)
        for index, item in enumerate(items):
            self._store.put(self.resource.kind, item)
            if index % 100 == 99:
                await asyncio.sleep(0)
        return version

    def _take(self, kind: str, item: Json) -> None:
        if kind in ("ADDED", "MODIFIED"):
            self._store.put(self.resource.kind, item)
        elif kind == "DELETED":
            self._store.remove(self.resource.kind, item)

    @property
    def _name(self) -> str:
        return f"{self.resource.plural} in {self.namespace or 'all namespaces'}"


class Informers:
    """Every informer of this operator, and the comparing that stands behind them."""

    def __init__(self, cluster: Cluster, store: Store, namespaces: Sequence[str], resync_seconds: int) -> None:
        self._cluster, self._store = cluster, store
        self._scopes: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._resync_seconds = resync_seconds
        self._watch_seconds = max(1, min(LONGEST_WATCH_SECONDS, resync_seconds))
        self._children = list(self._of(CHILDREN))
        # Runs and studies are listed and watched by kopf: here they are only compared.
        self._parents = list(self._of((RUN, STUDY)))
        self._workloads: dict[Informer, asyncio.Task[None]] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for informer in self._children:
                group.create_task(informer.run(), name=f"informer {informer.resource.plural}")
            group.create_task(self._discover(group), name="discovery")
            group.create_task(self._resync(), name="resync")

    async def synced(self) -> None:
        """Return once every child was listed."""
        for informer in self._children:
            await informer.synced.wait()

    async def compare(self) -> int:
        """Compare everything with fresh lists; how many objects were not as they are."""
        missed = 0
        for informer in (*self._parents, *self._children, *self._workloads):
            missed += await informer.compare()
        return missed

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._resync_seconds * random.uniform(0.9, 1.1))
            try:
                if missed := await self.compare():
                    log.warning("watches had missed %d changes; they are taken in now", missed)
            except ApiError as error:
                log.warning("comparing with lists failed: %s", error)

    async def _discover(self, group: asyncio.TaskGroup) -> None:
        """Begin and end the Workload informers as Kueue comes and goes."""
        while True:
            try:
                versions = (await self._cluster.served()).get(KUEUE_GROUP, [])
                await self._follow_kueue(workload(versions[0]) if versions else None, group)
            except ApiError as error:
                log.warning("discovery failed: %s", error)
            await asyncio.sleep(min(DISCOVERY_SECONDS, self._resync_seconds))

    async def _follow_kueue(self, resource: Resource | None, group: asyncio.TaskGroup) -> None:
        current = next((informer.resource for informer in self._workloads), None)
        if resource == current:
            return
        for task in self._workloads.values():
            task.cancel()
        self._workloads = {}
        if resource is not None:
            for informer in self._of((resource,)):
                self._workloads[informer] = group.create_task(informer.run(), name="informer workloads")
        else:
            for item in self._store.versions("Workload", None).values():
                self._store.remove("Workload", item)
        log.info("Kueue: %s", resource.version if resource else "not installed")
        self._store.set_kueue(resource is not None)

    def _of(self, resources: Sequence[Resource]) -> Iterator[Informer]:
        for resource in resources:
            for scope in self._scopes:
                yield Informer(self._cluster, self._store, resource, scope, watch_seconds=self._watch_seconds)


def backoff(failures: int) -> float:
    """Seconds before the next try: doubling from 0.5, at most 30, with jitter so that nobody walks in step."""
    return float(min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0))


async def pages(
    cluster: Cluster,
    resource: Resource,
    namespace: str | None,
    selector: str,
    keep: Callable[[Json], Json],
    *,
    metadata_only: bool = False,
) -> tuple[list[Json], str]:
    """What `keep` leaves of every object of a list, and the version that a watch may start from.

    Whole objects are held for one page only: thousands of them at once would set the operator's memory for good. A
    page token that is too old starts over.
    """
    for last in (False, True):
        items: list[Json] = []
        token = ""
        try:
            while True:
                page = await cluster.page(resource, namespace, selector, token, metadata_only=metadata_only)
                items += map(keep, page.get("items") or ())
                token = page["metadata"].get("continue") or ""
                if not token:
                    return items, str(page["metadata"]["resourceVersion"])
                await asyncio.sleep(0)
        except ApiError as error:
            if error.status != 410 or last:
                raise
    raise AssertionError("unreachable")
