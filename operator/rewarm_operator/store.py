"""What the operator knows of the cluster: runs, studies, their children by uid; the newest version wins.

Fed by kopf (runs, studies), by informers (children), by the answers to our own writes, and by LIST-and-compare. Decides
nothing: it says which run or study a change belongs to (`on_change`, `on_study_change`) and puts together what a
decision reads (`observe`, `observe_study`).
Used from one event loop only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rewarm_operator import trim
from rewarm_operator.last_words import LastWords, place
from rewarm_operator.observed import Heartbeat, Observed, ObservedStudy, Registry
from rewarm_operator.resources import PARENTS, RUN, STUDY, UID_LABEL, owner_uids, revision
from rewarm_operator.study_runs import gist, studies_of

Json = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of a run, or of a study."""

_TOMBSTONES = 4096


@dataclass
class Children:
    """What belongs to one run or study, by kind and name."""

    jobs: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    config_maps: dict[str, Json] = field(default_factory=dict)
    services: dict[str, Json] = field(default_factory=dict)
    seen_jobs: set[str] = field(default_factory=set)
    """Names; also of those that are gone."""

    def of(self, kind: str) -> dict[str, Json]:
        named = {"Job": self.jobs, "Pod": self.pods, "ConfigMap": self.config_maps, "Service": self.services}
        return named[kind]

    def empty(self) -> bool:
        return not (self.jobs or self.pods or self.config_maps or self.services)


@dataclass
class Known:
    """What no object of the API server says about one run or study."""

    collisions: dict[str, None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unwritten: dict[str, Any] = field(default_factory=dict)
    heartbeat: Heartbeat | None = None
    registry: Registry = field(default_factory=Registry)
    listed: dict[str, datetime] = field(default_factory=dict)
    patched: datetime | None = None


class Store:
    """See the module. `on_change` is called with a run's key after everything that a decision could notice.

    `clock`: monotonic seconds, by which deleted pods are forgotten.
    """

    def __init__(
        self,
        on_change: Callable[[Key], None],
        clock: Callable[[], float] = time.monotonic,
        on_study_change: Callable[[Key], None] = lambda key: None,
    ) -> None:
        self._on_change = {RUN.kind: on_change, STUDY.kind: on_study_change}
        self.runs: dict[Key, Json] = {}
        self.studies: dict[Key, Json] = {}
        self.kueue_installed = False
        self.leading_since: datetime | None = None
        self._place_of: dict[str, tuple[str, Key]] = {}
        self._runs_of: dict[str, dict[Key, None]] = {}
        self._children: dict[str, Children] = {}
        self._known: dict[str, Known] = {}
        self._workloads: dict[str, dict[str, Json]] = {}
        self._owner_of_job: dict[str, str] = {}
        self._last_words = LastWords(clock)
        # A late answer to a write must not bring back what a watch has already seen go.
        self._gone: OrderedDict[str, None] = OrderedDict()

    # -- what is put in ------------------------------------------------------------------------------------------------

    def put(self, kind: str, item: Json) -> None:
        """Take an object in, unless the same or a newer version of it is known."""
        uid = item["metadata"].get("uid")
        if not uid or uid in self._gone:
            return
        if kind in PARENTS:
            self._put_parent(kind, item)
        elif kind == "Workload":
            self._put_workload(item)
        elif run_uid := _run_uid(item):
            self._put_child(kind, run_uid, item)

    def remove(self, kind: str, item: Json) -> None:
        """The object is gone; its uid never comes back. `item`: as it was last (metadata is enough)."""
        metadata = item["metadata"]
        uid = metadata["uid"]
        self._gone[uid] = None
        if len(self._gone) > _TOMBSTONES:
            self._gone.popitem(last=False)
        if kind in PARENTS:
            self._remove_parent(kind, (metadata["namespace"], metadata["name"]), uid)
        elif kind == "Workload":
            self._remove_workload(metadata["name"], uid)
        elif run_uid := _run_uid(item):
            self._remove_child(kind, run_uid, item)

    def versions(self, kind: str, namespace: str | None) -> dict[str, Json]:
        """Every known object of a kind by uid, in one namespace or in all: for comparing with a list."""
        return {
            item["metadata"]["uid"]: item
            for item in self._all(kind)
            if namespace is None or item["metadata"]["namespace"] == namespace
        }

    def heard(self, uid: str, heartbeat: Heartbeat) -> None:
        """Rank 0 said something."""
        if uid in self._place_of:
            self._of(uid).heartbeat = heartbeat
            self._changed(uid)

    def tracked(self, uid: str, registry: Registry) -> None:
        """MLflow answered, or did not."""
        if uid in self._place_of and self._of(uid).registry != registry:
            self._of(uid).registry = registry
            self._changed(uid)

    def collided(self, uid: str, name: str, found: bool) -> None:
        """`Kind/name` is there and is somebody else's; `found` False: no longer."""
        if uid in self._place_of and _set(self._of(uid).collisions, name, None, found):
            self._changed(uid)

    def refused(self, uid: str, name: str, message: str) -> None:
        """The API server refuses to create `Kind/name`, for this reason; an empty one: no longer."""
        if uid in self._place_of and _set(self._of(uid).refused, name, message, bool(message)):
            self._changed(uid)

    def left_out(self, uid: str, changes: Json) -> None:
        """Changes of the status, by field, that the API server refuses; empty: it takes all of them."""
        if uid in self._place_of and self._of(uid).unwritten != changes:
            self._of(uid).unwritten = changes
            self._changed(uid)

    def patched(self, uid: str, now: datetime) -> None:
        """This process has just patched the status."""
        if uid in self._place_of:
            self._of(uid).patched = now

    def listed(self, uid: str, job_uid: str, now: datetime) -> None:
        """The pods of this Job, as they are, have been put in."""
        if uid in self._place_of:
            present = {job["metadata"]["uid"] for job in self._children_of(uid).jobs.values()}
            listed = {job: when for job, when in self._of(uid).listed.items() if job in present}
            self._of(uid).listed = listed | {job_uid: now}
            self._changed(uid)

    def look_again(self, uid: str) -> None:
        """The run is to be decided anew although nothing about it changed."""
        self._changed(uid)

    def set_kueue(self, installed: bool) -> None:
        if installed != self.kueue_installed:
            self.kueue_installed = installed
            for key in self.runs:
                self._on_change[RUN.kind](key)

    # -- what is read --------------------------------------------------------------------------------------------------

    def key(self, uid: str) -> Key | None:
        """Of the run with this uid."""
        kind, key = self._place_of.get(uid, ("", None))
        return key if kind == RUN.kind else None

    def parents(self, kind: str) -> dict[Key, Json]:
        """All runs, or all studies."""
        return self.runs if kind == RUN.kind else self.studies

    def registry(self, uid: str) -> Registry | None:
        """What MLflow answered for the run; None when there is no such run."""
        return self._of(uid).registry if uid in self._place_of else None

    def unwritten(self, uid: str) -> Json:
        """What `left_out` said last."""
        return self._of(uid).unwritten if uid in self._place_of else {}

    def heartbeats(self) -> dict[str, Heartbeat]:
        return {uid: known.heartbeat for uid, known in self._known.items() if known.heartbeat}

    def jobs(self, uid: str) -> list[Json]:
        """Jobs of a run or study: those that it owns, not those that only carry its label."""
        return [job for job in self._children_of(uid).jobs.values() if uid in owner_uids(job)]

    def pods(self, uid: str) -> list[Json]:
        return list(self._children_of(uid).pods.values())

    def child(self, uid: str, kind: str, name: str) -> Json | None:
        return self._children_of(uid).of(kind).get(name)

    def observe(self, key: Key, now: datetime) -> Observed | None:
        """What a decision about one run reads; None when the run is gone."""
        run = self.runs.get(key)
        if run is None:
            return None
        uid, name = run["metadata"]["uid"], run["metadata"]["name"]
        children, known = self._children_of(uid), self._known.get(uid) or Known()
        jobs = tuple(job for job in children.jobs.values() if uid in owner_uids(job))
        workloads = tuple(
            workload for job in jobs for workload in self._workloads.get(job["metadata"]["uid"], {}).values()
        )
        return Observed(
            run=run,
            now=now,
            config_map=_owned(children.config_maps.get(name), uid),
            service=_owned(children.services.get(name), uid),
            jobs=jobs,
            seen_jobs=frozenset(children.seen_jobs),
            pods=(*self._last_words.of(uid), *children.pods.values()),
            listed=known.listed,
            workloads=workloads,
            kueue_installed=self.kueue_installed,
            collisions=tuple(known.collisions),
            refused=dict(known.refused),
            unwritten=tuple(sorted(known.unwritten)),
            heartbeat=known.heartbeat,
            registry=known.registry,
            leading_since=self.leading_since,
            last_status_patch=known.patched,
        )

    def observe_study(self, key: Key, now: datetime) -> ObservedStudy | None:
        """What a decision about one study reads; None when the study is gone."""
        study = self.studies.get(key)
        if study is None:
            return None
        uid = study["metadata"]["uid"]
        known = self._known.get(uid) or Known()
        return ObservedStudy(
            study=study,
            now=now,
            runs=tuple(self.runs[each] for each in sorted(self._runs_of.get(uid, ()))),
            jobs=tuple(self.jobs(uid)),
            pods=(*self._last_words.of(uid), *self._children_of(uid).pods.values()),
            listed=known.listed,
            collisions=tuple(known.collisions),
            refused=dict(known.refused),
            unwritten=tuple(sorted(known.unwritten)),
            last_status_patch=known.patched,
        )

    # -- runs and studies ----------------------------------------------------------------------------------------------

    def _put_parent(self, kind: str, item: Json) -> None:
        metadata = item["metadata"]
        key = (metadata["namespace"], metadata["name"])
        named = self.parents(kind)
        known = named.get(key)
        if known is not None and revision(known) >= revision(item):
            return
        if known is not None and known["metadata"]["uid"] != metadata["uid"]:
            self._forget(known["metadata"]["uid"])
        named[key] = trim.run(item)
        self._place_of[metadata["uid"]] = (kind, key)
        self._on_change[kind](key)
        if kind == RUN.kind:
            self._tell_studies(key, known, named[key])

    def _remove_parent(self, kind: str, key: Key, uid: str) -> None:
        named = self.parents(kind)
        known = named.get(key)
        if known is not None and known["metadata"]["uid"] == uid:
            del named[key]
            self._on_change[kind](key)
            if kind == RUN.kind:
                self._tell_studies(key, known, None)
        self._forget(uid)

    def _tell_studies(self, key: Key, before: Json | None, after: Json | None) -> None:
        """A study is to be decided anew when one of its runs comes, ends or goes; not at each of its steps."""
        old, new = studies_of(before), studies_of(after)
        for uid in old - new:
            self._runs_of[uid].pop(key, None)
            if not self._runs_of[uid]:
                del self._runs_of[uid]
        for uid in new:
            self._runs_of.setdefault(uid, {})[key] = None
        for uid in old ^ new if gist(before) == gist(after) else old | new:
            self._changed(uid)

    def _forget(self, uid: str) -> None:
        self._place_of.pop(uid, None)
        self._known.pop(uid, None)
        self._last_words.forget(uid)

    # -- children ------------------------------------------------------------------------------------------------------

    def _put_child(self, kind: str, run_uid: str, item: Json) -> None:
        named = self._children.setdefault(run_uid, Children()).of(kind)
        name = item["metadata"]["name"]
        known = named.get(name)
        if known is not None and revision(known) >= revision(item):
            return
        named[name] = kept = trim.TRIMMERS[kind](item)
        if known is not None and _alike(known, kept):
            return
        if kind == "Pod":
            self._last_words.replaced(run_uid, kept)
        if kind == "Job":
            self._owner_of_job[item["metadata"]["uid"]] = run_uid
            if run_uid in owner_uids(item):
                self._children[run_uid].seen_jobs.add(name)
        self._changed(run_uid)

    def _remove_child(self, kind: str, run_uid: str, item: Json) -> None:
        children = self._children.get(run_uid)
        if children is None:
            return
        name, uid = item["metadata"]["name"], item["metadata"]["uid"]
        known = children.of(kind).get(name)
        if known is not None and known["metadata"]["uid"] == uid:
            del children.of(kind)[name]
            if kind == "Pod":
                self._keep_last_words(run_uid, max(known, trim.pod(item), key=revision))
            self._changed(run_uid)
        if kind == "Job":
            self._owner_of_job.pop(uid, None)
        if children.empty():
            del self._children[run_uid]

    def _keep_last_words(self, run_uid: str, pod: Json) -> None:
        others = self._children_of(run_uid).pods.values()
        if run_uid in self._place_of and place(pod) not in map(place, others):
            self._last_words.keep(run_uid, pod)

    def _put_workload(self, item: Json) -> None:
        jobs = [str(owner["uid"]) for owner in item["metadata"].get("ownerReferences") or () if owner["kind"] == "Job"]
        for job_uid in jobs[:1]:
            named = self._workloads.setdefault(job_uid, {})
            known = named.get(item["metadata"]["name"])
            if known is None or revision(known) < revision(item):
                named[item["metadata"]["name"]] = trim.workload(item)
                self._changed(self._owner_of_job.get(job_uid, ""))

    def _remove_workload(self, name: str, uid: str) -> None:
        for job_uid, named in list(self._workloads.items()):
            if name in named and named[name]["metadata"]["uid"] == uid:
                del named[name]
                self._changed(self._owner_of_job.get(job_uid, ""))
            if not named:
                del self._workloads[job_uid]

    # -- the rest ------------------------------------------------------------------------------------------------------

    def _children_of(self, uid: str) -> Children:
        return self._children.get(uid) or Children()

    def _of(self, uid: str) -> Known:
        return self._known.setdefault(uid, Known())

    def _all(self, kind: str) -> Iterator[Json]:
        if kind in PARENTS:
            yield from self.parents(kind).values()
        elif kind == "Workload":
            for named in self._workloads.values():
                yield from named.values()
        else:
            for children in self._children.values():
                yield from children.of(kind).values()

    def _changed(self, uid: str) -> None:
        if uid in self._place_of:
            kind, key = self._place_of[uid]
            self._on_change[kind](key)


def _alike(known: Json, kept: Json) -> bool:
    """Whether two versions of an object differ in nothing that a decision could notice."""
    version = {"resourceVersion": ""}
    before, after = ({**item, "metadata": {**item["metadata"], **version}} for item in (known, kept))
    return before == after


def _run_uid(item: Json) -> str:
    return str((item["metadata"].get("labels") or {}).get(UID_LABEL, ""))


def _owned(item: Json | None, uid: str) -> Json | None:
    return item if item is not None and uid in owner_uids(item) else None


def _set(mapping: dict[str, Any], name: str, value: Any, present: bool) -> bool:
    """Whether the mapping changed."""
    if present:
        changed = name not in mapping or mapping[name] != value
        mapping[name] = value
        return changed
    return mapping.pop(name, mapping) is not mapping
