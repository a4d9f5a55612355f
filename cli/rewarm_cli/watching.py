"""Follows objects of an API server over dropped connections and forgotten versions. Knows nothing of runs.

list ──> Seen ... Seen ──> Synced ──> Seen / Gone ...   (after 410: the list again, what vanished as Gone)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewarm_api.errors import DependencyError
from rewarm_cli.cluster import StreamEnded
from rewarm_cli.cluster_errors import DeniedError, ExpiredError

if TYPE_CHECKING:
    from rewarm_cli.cluster import Cluster, Resource

# An API server that restarts is away for a minute or two; one that is away for longer is worth an error.
PATIENCE_SECONDS = 300.0
# One that comes back refuses everybody for a moment, until it has read who may do what.
REFUSED_SECONDS = 30.0
_ONE_WATCH_SECONDS = 240.0
_LONGEST_PAUSE = 10.0
# A connection that something between drops after a while was a good one; one that ends at once was not.
_SHORT_WATCH_SECONDS = 5.0


class DeadlineError(Exception):
    """The time that was given is over."""


@dataclass(frozen=True)
class Seen:
    """An object as it now is."""

    object: dict[str, Any]


@dataclass(frozen=True)
class Gone:
    """An object that was deleted, as it last was."""

    object: dict[str, Any]


@dataclass(frozen=True)
class Synced:
    """Everything that was there at the beginning has been told."""


Change = Seen | Gone | Synced


def observe(
    cluster: Cluster,
    resource: Resource,
    namespace: str | None,
    *,
    labels: str = "",
    fields: str = "",
    deadline: float | None = None,
) -> Iterator[Change]:
    """Changes without end. `deadline` is of `time.monotonic`.

    Raises DeadlineError, DeniedError, or DependencyError (75) when the server was away for PATIENCE_SECONDS.
    """
    known: dict[str, dict[str, Any]] = {}
    version, synced, failures, since, refused_since = "", False, 0, 0.0, None
    while True:
        try:
            if not version:
                items, version = cluster.list(resource, namespace, labels=labels, fields=fields)
                yield from _listed(known, items)
                if not synced:
                    synced = True
                    yield Synced()
            seconds, opened = _seconds(deadline), time.monotonic()
            try:
                for event in cluster.watch(resource, namespace, version, labels=labels, fields=fields, seconds=seconds):
                    version = _version(event, version)
                    failures, refused_since = 0, None
                    if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                        yield _changed(known, event)
            except StreamEnded:
                if time.monotonic() - opened < _SHORT_WATCH_SECONDS:
                    raise
            failures, refused_since = 0, None
        except ExpiredError:
            version = ""
        except (StreamEnded, DependencyError, DeniedError) as error:
            now = time.monotonic()
            since = since if failures else now
            # Counted from the first refusal: a server that was away for longer may still refuse when it comes back.
            refused_since = (refused_since or now) if isinstance(error, DeniedError) else None
            failures += 1
            if (
                (not synced and isinstance(error, DeniedError))
                or now - since > PATIENCE_SECONDS
                or (refused_since and now - refused_since > REFUSED_SECONDS)
            ):
                if isinstance(error, StreamEnded):
                    raise DependencyError("the API server ends every watch at once; is a proxy in between?") from error
                raise
            time.sleep(min(_LONGEST_PAUSE, 0.5 * 2.0 ** min(failures, 6), _seconds(deadline)))
        _seconds(deadline)


def _seconds(deadline: float | None) -> float:
    if deadline is None:
        return _ONE_WATCH_SECONDS
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineError
    return min(_ONE_WATCH_SECONDS, left)


def _listed(known: dict[str, dict[str, Any]], items: list[dict[str, Any]]) -> Iterator[Change]:
    now = {item["metadata"]["uid"]: item for item in items}
    for uid in [uid for uid in known if uid not in now]:
        yield Gone(known.pop(uid))
    for uid, item in now.items():
        before = known.get(uid)
        known[uid] = item
        if before is None or before["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
            yield Seen(item)


def _version(event: Mapping[str, Any], version: str) -> str:
    """The version to go on from. An ERROR event ends a watch: 410 in it means "list again"."""
    if event["type"] == "ERROR":
        if event["object"].get("code") == 410:
            raise ExpiredError("the watch is too old")
        raise DependencyError(f"watch: {event['object'].get('message')}")
    newest: str = event["object"]["metadata"].get("resourceVersion") or version
    return newest


def _changed(known: dict[str, dict[str, Any]], event: Mapping[str, Any]) -> Change:
    item = event["object"]
    if event["type"] == "DELETED":
        known.pop(item["metadata"]["uid"], None)
        return Gone(item)
    known[item["metadata"]["uid"]] = item
    return Seen(item)
