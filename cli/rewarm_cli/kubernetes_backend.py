"""Runs on a cluster: every word of the client as requests to the API server. The operator does what is asked for.

Decides nothing about a run: it writes `spec` and one annotation, and reads what others wrote.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewarm_api.citation_form import for_a_server
from rewarm_api.errors import ManifestError, MissingInputError, Problem
from rewarm_cli import watching
from rewarm_cli.cluster import EVENTS, PODS, RUNS, STUDIES, Cluster, Resource, connect
from rewarm_cli.cluster_errors import ConflictError, GoneError, meant
from rewarm_cli.logs import CONTAINER, Follower, Pod, Selection, pod_of, snapshot_lines
from rewarm_cli.records import PROMOTE, LogLine, Run, RunEvent, run_of

_CONFLICTS = 5


class Kubernetes:
    """The cluster of a kubeconfig's context, as kubectl finds it; inside a pod, that pod's cluster.

    `namespace` empty: the context's. Raises what `cluster.connect` raises.
    """

    def __init__(self, *, namespace: str = "", context: str | None = None, kubeconfig: str | None = None) -> None:
        self._cluster: Cluster = connect(kubeconfig, context)
        self.namespace = namespace or self._cluster.namespace

    @property
    def local(self) -> bool:
        return False

    def submit(self, document: Mapping[str, Any], folder: Path, *, dry_run: bool = False) -> Run:
        """Create, or update what is there. Strict: an unknown field is refused. `folder` means nothing on a cluster."""
        return _done(*self._apply(RUNS, for_a_server(dict(document)), dry_run))

    def apply_study(self, document: Mapping[str, Any], *, dry_run: bool = False) -> tuple[dict[str, Any], str]:
        """Create the study, or update what is there; the object, and what was done."""
        return self._apply(STUDIES, document, dry_run)

    def get_study(self, name: str) -> dict[str, Any]:
        """Raises MissingInputError (66) when it is not there."""
        try:
            return self._cluster.get(STUDIES, self.namespace, name)
        except GoneError:
            words = f"study {name}: found none in namespace {self.namespace}; see kubectl get mixturestudies"
            raise MissingInputError(words) from None

    def _apply(self, resource: Resource, document: Mapping[str, Any], dry_run: bool) -> tuple[dict[str, Any], str]:
        given = document["metadata"].get("namespace")
        if given not in (None, self.namespace):
            raise ManifestError(
                Problem("metadata.namespace", given, self.namespace, f"remove it, or choose it with -n {given}")
            )
        body = {**document, "metadata": {**document["metadata"], "namespace": self.namespace}}
        name = body["metadata"]["name"]
        for _ in range(_CONFLICTS):
            try:
                return self._cluster.create(resource, self.namespace, body, dry_run=dry_run), "created"
            except ConflictError:
                pass
            try:
                return self._update(resource, name, body, dry_run)
            except (ConflictError, GoneError):
                # Somebody wrote, or deleted it, in between.
                continue
        raise ConflictError(Problem(name, "a change by somebody else each time", "a quiet moment", "submit it again"))

    def _update(
        self, resource: Resource, name: str, body: Mapping[str, Any], dry_run: bool
    ) -> tuple[dict[str, Any], str]:
        before = self._cluster.get(resource, self.namespace, name)
        if "deletionTimestamp" in before["metadata"]:
            raise ManifestError(
                Problem("metadata.name", f"{name}, which is being deleted", "a free name", "wait until it is gone")
            )
        metadata = dict(before["metadata"])
        for key in ("labels", "annotations"):
            merged = {**(metadata.get(key) or {}), **(body["metadata"].get(key) or {})}
            metadata |= {key: merged} if merged else {}
        after = {**before, "spec": body["spec"], "metadata": metadata}
        if after == before:
            return before, "unchanged"
        return self._cluster.replace(resource, self.namespace, name, after, dry_run=dry_run), "configured"

    def list(self, *, all_namespaces: bool = False, selector: str = "") -> list[Run]:
        items, _ = self._cluster.list(RUNS, None if all_namespaces else self.namespace, labels=selector)
        return sorted(map(run_of, items), key=lambda run: (run.namespace, run.name))

    def get(self, name: str) -> Run:
        try:
            return run_of(self._cluster.get(RUNS, self.namespace, name))
        except GoneError:
            raise self._no_such(name) from None

    def _no_such(self, name: str) -> MissingInputError:
        """The error of a name that is not there, with the one that was perhaps meant."""
        try:
            runs = self.list()
        except Exception:  # only a better message was sought
            runs = []
        hint = meant(name, [run.name for run in runs])
        if not hint:
            hint = (
                f"there is {', '.join(run.name for run in runs[:5])}" if runs else "there is none; see `rewarm list -A`"
            )
        return GoneError(f"continualrun {name}: not found in namespace {self.namespace}; {hint}", name)

    def watch(self, name: str, *, timeout: float | None = None) -> Iterator[Run | None]:
        """The run now, and again at every change; None once it is deleted. Raises DeadlineError after `timeout`."""
        self.get(name)
        yield from self._changes(name, None if timeout is None else time.monotonic() + timeout)

    def _changes(self, name: str, deadline: float | None) -> Iterator[Run | None]:
        """As `watch`, of a run that was there a moment ago: a server that is away since then is waited for."""
        seen = False
        fields = f"metadata.name={name}"
        for change in watching.observe(self._cluster, RUNS, self.namespace, fields=fields, deadline=deadline):
            if isinstance(change, watching.Seen):
                seen = True
                yield run_of(change.object)
            elif isinstance(change, watching.Gone) or not seen:
                yield None

    def logs(self, name: str, selection: Selection, *, follow: bool, tail: int | None) -> Iterator[LogLine]:
        """Lines of the run's pods that still exist; following ends when the run has."""
        run = self.get(name)
        labels = f"rewarm.dev/run-uid={run.uid}"

        def read(pod: Pod, since: str) -> Iterator[str]:
            last = None if since else tail
            return self._cluster.log(
                pod.namespace, pod.name, container=CONTAINER, follow=follow, since=since, tail=last
            )

        if not follow:
            items, _ = self._cluster.list(PODS, self.namespace, labels=labels)
            yield from snapshot_lines(map(pod_of, items), selection, read)
            return
        follower = Follower(selection, read)
        for target in (self._feed_pods, self._feed_end):
            threading.Thread(target=_reporting, args=(follower, target, labels, run), daemon=True).start()
        try:
            yield from follower.lines()
        finally:
            follower.close()

    def _feed_pods(self, follower: Follower, labels: str, run: Run) -> None:
        for change in watching.observe(self._cluster, PODS, self.namespace, labels=labels):
            if follower.closed:
                return
            if isinstance(change, watching.Seen):
                follower.pod(pod_of(change.object))
            elif isinstance(change, watching.Gone):
                follower.gone(pod_of(change.object))

    def _feed_end(self, follower: Follower, labels: str, run: Run) -> None:
        for now in self._changes(run.name, None):
            if follower.closed:
                return
            if now is None or now.uid != run.uid or now.finished:
                break
        # The other thread may not have seen the last pods yet.
        items, _ = self._cluster.list(PODS, self.namespace, labels=labels)
        for item in items:
            follower.pod(pod_of(item))
        follower.finish()

    def events(self, name: str, *, follow: bool = False) -> Iterator[RunEvent]:
        """Events of the run, its Jobs and its pods, oldest first; following ends when the run is deleted."""
        run = self.get(name)
        if not follow:
            items, _ = self._cluster.list(EVENTS, self.namespace)
            yield from sorted((_event(item) for item in items if concerns(item, run)), key=lambda event: event.time)
            return
        first: list[RunEvent] | None = []
        for change in watching.observe(self._cluster, EVENTS, self.namespace):
            if isinstance(change, watching.Synced):
                yield from sorted(first or (), key=lambda event: event.time)
                first = None
            elif isinstance(change, watching.Seen) and concerns(change.object, run):
                if first is None:
                    yield _event(change.object)
                else:
                    first.append(_event(change.object))

    def patch(self, name: str, changes: Mapping[str, Any]) -> Run:
        """The run after a merge patch."""
        try:
            return run_of(self._cluster.patch(RUNS, self.namespace, name, changes))
        except GoneError:
            raise self._no_such(name) from None

    def suspend(self, name: str) -> Run:
        return self.patch(name, {"spec": {"suspend": True}})

    def resume(self, name: str) -> Run:
        return self.patch(name, {"spec": {"suspend": False}})

    def promote(self, name: str, version: str = "") -> Run:
        """Ask for the alias; the operator removes the annotation once it has answered."""
        return self.patch(name, {"metadata": {"annotations": {PROMOTE: version or "true"}}})

    def delete(self, name: str) -> Run:
        """The run as it last was. Its Jobs go; checkpoints and registered models stay."""
        run = self.get(name)
        self._cluster.delete(RUNS, self.namespace, name, run.uid)
        return run


def concerns(event: Mapping[str, Any], run: Run) -> bool:
    """Whether an Event is about the run, or about a child of it by its name."""
    about = event.get("involvedObject") or {}
    if about.get("kind") == "ContinualRun":
        return about.get("name") == run.name and about.get("uid") in (None, "", run.uid)
    name = re.escape(run.name)
    children = rf"(job-)?{name}(-(prepare|a[0-9]+|eval-[0-9]+)(-[0-9]+)?(-[a-z0-9]{{5}})?)?"
    return re.fullmatch(children, str(about.get("name"))) is not None


def _done(item: Mapping[str, Any], action: str) -> Run:
    return run_of(item).model_copy(update={"action": action})


def _event(item: Mapping[str, Any]) -> RunEvent:
    about, series = item.get("involvedObject") or {}, item.get("series") or {}
    time_of = series.get("lastObservedTime") or item.get("lastTimestamp") or item.get("eventTime")
    return RunEvent(
        time=time_of or item["metadata"].get("creationTimestamp") or "",
        type=item.get("type") or "Normal",
        reason=item.get("reason") or "",
        message=" ".join(str(item.get("message") or "").split()),
        about=f"{about.get('kind', '')}/{about.get('name', '')}",
        count=series.get("count") or item.get("count") or 1,
        uid=item["metadata"].get("uid", ""),
    )


def _reporting(follower: Follower, target: Any, labels: str, run: Run) -> None:
    """A thread whose failure ends the stream with its error, not in silence."""
    try:
        target(follower, labels, run)
    except BaseException as error:
        follower.fail(error)
