"""Does what a decision asks for, in order; what the API server answers goes into the store at once.

The first action that fails ends the list: the key is visited again and decided anew from what is then observed. So a
half-done list is as good as any other state, and doing a list twice changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from rewarm_operator import moments, trim
from rewarm_operator.actions import (
    Action,
    Annotate,
    Create,
    DeleteJob,
    Emit,
    ListPods,
    PatchStatus,
    SetFinalizer,
    Track,
)
from rewarm_operator.cluster import ApiError, Cluster
from rewarm_operator.informers import pages
from rewarm_operator.queue import Again
from rewarm_operator.resources import CREATED, FINALIZER, JOB, POD, RUN, UID_LABEL, Resource, owner_uids
from rewarm_operator.server_time import SERVER
from rewarm_operator.status_changes import without_refused
from rewarm_operator.store import Key, Store

log = logging.getLogger("rewarm.executor")

Json = dict[str, Any]

_COLLECTION_SECONDS = 60.0
"""How long after a run was made the children of a deleted one with its name may still be there: a look takes moments,
but the garbage collector of a busy cluster has a queue."""
_COLLECTION_LOOK_SECONDS = 3.0


class Refused(Again):
    """The API server will not have an object of ours; noted in the store, tried again with backoff."""


class Recorder(Protocol):
    """Where Events go; never waits, never fails."""

    def emit(self, run: Json, event: Emit) -> None: ...


class Executor:
    """See the module. `track` hands a Track over and returns at once; `kind`: whose decisions, RUN or STUDY."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        recorder: Recorder,
        track: Callable[[str, Track], None],
        kind: Resource = RUN,
    ) -> None:
        self._cluster, self._store, self._recorder, self._track = cluster, store, recorder, track
        self._kind = kind
        self._parents = store.parents(kind.kind)
        self._doubtful: set[Key] = set()

    async def refresh(self, key: Key) -> None:
        """Read a run again when the outcome of a write on it is not known."""
        if key in self._doubtful:
            await self._read_run(key)
            self._doubtful.discard(key)

    async def execute(self, key: Key, actions: tuple[Action, ...]) -> None:
        """Raises Again or NotLeading for the first action that fails."""
        uid = self._parents[key]["metadata"]["uid"]
        for action in actions:
            run = self._parents.get(key)
            if run is None or run["metadata"]["uid"] != uid:
                return
            try:
                await self._do(key, run, action)
            except ApiError as error:
                await self._failed(key, error)

    async def _do(self, key: Key, run: Json, action: Action) -> None:
        match action:
            case SetFinalizer():
                await self._set_finalizer(key, run, action.present)
            case Create():
                await self._create(run, dict(action.body))
            case DeleteJob():
                await self._delete_job(run, action.name, action.uid)
            case ListPods():
                await self._list_pods(run, action.job)
            case PatchStatus():
                await self._patch_status(key, action)
            case Annotate():
                await self._patch_run(key, {"metadata": {"annotations": dict(action.changes)}})
            case Emit():
                self._recorder.emit({**run, "kind": self._kind.kind}, action)
            case Track():
                self._track(run["metadata"]["uid"], action)

    async def _failed(self, key: Key, error: ApiError) -> None:
        """Say how to go on after a request on a run, or on one of its children, failed."""
        if error.status == 409:
            # Somebody else has written the run: what they wrote is decided on.
            await self._read_run(key)
            raise Again(f"conflict: {error.message}") from error
        if error.uncertain:
            self._doubtful.add(key)
            raise Again(str(error), error.retry_after or 0.1) from error
        if error.status == 404 and key in self._parents:
            await self._read_run(key)
            raise Again(str(error)) from error
        if error.status == 429:
            raise Again(str(error), error.retry_after or 1.0) from error
        raise Again(str(error)) from error

    async def _set_finalizer(self, key: Key, run: Json, present: bool) -> None:
        metadata = run["metadata"]
        finalizers = list(metadata.get("finalizers") or ())
        if (FINALIZER in finalizers) == present:
            return
        kept = [name for name in finalizers if name != FINALIZER] + ([FINALIZER] if present else [])
        # The list is written whole: the version makes sure that nobody else's finalizer is lost by it.
        changes = {"metadata": {"finalizers": kept, "resourceVersion": metadata["resourceVersion"]}}
        await self._patch_run(key, changes)

    async def _patch_status(self, key: Key, action: PatchStatus) -> None:
        """Write the status; without what the API server refuses for good, so that the run goes on."""
        uid = self._parents[key]["metadata"]["uid"]
        known = self._store.unwritten(uid)
        changes = {name: value for name, value in action.changes.items() if name not in known or known[name] != value}
        while changes:
            body: Json = {"status": changes}
            if action.resource_version:
                body["metadata"] = {"resourceVersion": action.resource_version}
            # Before the write: one whose answer is lost counts as well.
            self._store.patched(uid, SERVER.now())
            try:
                await self._patch_run(key, body, "status")
                break
            except ApiError as error:
                rest = without_refused(changes, error.fields)
                if error.status != 422 or len(rest) == len(changes):
                    raise
                if not changes.keys() - rest.keys() <= known.keys():
                    log.error("%s/%s: a part of the status is left out: %s", *key, error.message)
                changes = rest
        self._store.left_out(uid, {name: value for name, value in action.changes.items() if name not in changes})

    async def _patch_run(self, key: Key, body: Json, subresource: str = "") -> None:
        answer = await self._cluster.patch(self._kind, key[0], key[1], body, subresource)
        metadata = answer["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self._store.remove(self._kind.kind, answer)
        else:
            self._store.put(self._kind.kind, answer)

    async def _create(self, run: Json, body: Json) -> None:
        resource = CREATED[body["kind"]]
        uid, name = run["metadata"]["uid"], body["metadata"]["name"]
        title = f"{resource.kind}/{name}"
        try:
            answer = await self._cluster.create(resource, run["metadata"]["namespace"], body)
        except ApiError as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                await self._adopt(run, resource, name)
                return
            if error.status in (400, 403, 413, 422):
                self._store.refused(uid, title, error.message)
                raise Refused(f"{title} is refused: {error.message}") from error
            raise
        self._store.put(resource.kind, answer)
        self._accepted(uid, title)

    async def _adopt(self, run: Json, resource: Resource, name: str) -> None:
        """The name is taken: by us, then all is well; by somebody else, then that is told and tried again later."""
        uid, title = run["metadata"]["uid"], f"{resource.kind}/{name}"
        try:
            found = await self._cluster.get(resource, run["metadata"]["namespace"], name)
        except ApiError as error:
            if error.status == 404:
                raise Again(f"{title} has just gone") from error
            raise
        if uid not in owner_uids(found):
            if _is_left_behind(found, run, self._kind):
                raise Again(
                    f"{title} of the {self._kind.kind} before this one is still to be collected",
                    _COLLECTION_LOOK_SECONDS,
                )
            self._store.collided(uid, title, True)
            raise Refused(f"{title} exists and is not of this {self._kind.kind}")
        if found["metadata"].get("deletionTimestamp"):
            self._store.put(resource.kind, found)
            raise Again(f"{title} is still being deleted", 1.0)
        self._store.put(resource.kind, found)
        self._accepted(uid, title)

    def _accepted(self, uid: str, title: str) -> None:
        self._store.collided(uid, title, False)
        self._store.refused(uid, title, "")

    async def _delete_job(self, run: Json, name: str, uid: str) -> None:
        namespace = run["metadata"]["namespace"]
        known = self._store.child(run["metadata"]["uid"], JOB.kind, name)
        try:
            answer = await self._cluster.delete(JOB, namespace, name, uid)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            if error.status == 409 and await self._is_there(namespace, name, uid):
                raise Again(f"Job/{name} is not deleted: {error.message}") from error
            # Another object has the name now, or none: the one that was meant is gone either way.
            answer = {}
        if answer.get("kind") == JOB.kind and answer["metadata"].get("deletionTimestamp"):
            self._store.put(JOB.kind, answer)
        elif known is not None and known["metadata"]["uid"] == uid:
            self._store.remove(JOB.kind, known)

    async def _list_pods(self, run: Json, job: str) -> None:
        """What was deleted stays: how it ended comes with its DELETED event, and only to one that is still known."""
        metadata = run["metadata"]
        selector = f"{UID_LABEL}={metadata['uid']}"
        found, _ = await pages(self._cluster, POD, metadata["namespace"], selector, trim.pod)
        for pod in found:
            self._store.put(POD.kind, pod)
        self._store.listed(metadata["uid"], job, SERVER.now())

    async def _is_there(self, namespace: str, name: str, uid: str) -> bool:
        """Whether the Job of this name is the one with this uid."""
        try:
            found = await self._cluster.get(JOB, namespace, name)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return bool(found["metadata"]["uid"] == uid)

    async def _read_run(self, key: Key) -> None:
        known = self._parents.get(key)
        try:
            found = await self._cluster.get(self._kind, *key)
        except ApiError as error:
            if error.status != 404:
                raise Again(str(error), error.retry_after or 0.1) from error
            if known is not None:
                self._store.remove(self._kind.kind, known)
            return
        if known is not None and known["metadata"]["uid"] != found["metadata"]["uid"]:
            self._store.remove(self._kind.kind, known)
        self._store.put(self._kind.kind, found)


def _is_left_behind(found: Json, run: Json, kind: Resource) -> bool:
    """Whether it belongs to a run (or study) of the same name that was deleted a moment ago: it goes by itself."""
    metadata = run["metadata"]
    made = moments.parse(metadata.get("creationTimestamp"))
    owners = found["metadata"].get("ownerReferences") or ()
    of_namesake = any((owner.get("kind"), owner.get("name")) == (kind.kind, metadata["name"]) for owner in owners)
    is_new = made is not None and moments.seconds_between(made, SERVER.now()) < _COLLECTION_SECONDS
    return of_namesake and is_new
