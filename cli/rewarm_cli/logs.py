"""Brings the logs of many pods into one stream: every rank, one attempt after another. Pure logic over streams.

    pods come and go ──> Follower.pod ──> one reader thread per started container ──> one queue ──> lines
    the run ends     ──> Follower.finish ──────────────────────────────────────────────────────────> the end

Decides which pods are read, how lines are ordered, and when nothing more can come.
"""

from __future__ import annotations

import heapq
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rewarm_api.errors import RewarmError
from rewarm_cli.cluster import StreamEnded
from rewarm_cli.cluster_errors import DeniedError, GoneError
from rewarm_cli.records import LogLine

CONTAINER = "trainer"
ROLES = ("prepare", "trainer")
_INDEX = "batch.kubernetes.io/job-completion-index"
# How often in a row a log may be refused, by a server that restarts or a node that is gone, before it is given up.
_FAILURES = 60
_REFUSALS = 30
# A log that ended although its container runs is asked for again after this many seconds.
_PAUSE = 1.0

Reader = Callable[["Pod", str], Iterator[str]]
"""`(pod, since)` -> lines with their time in front, following while the container runs."""


@dataclass(frozen=True)
class Selection:
    """Which lines are wanted; None means all."""

    attempt: int | None = None
    rank: int | None = None
    role: str | None = None

    def takes(self, pod: Pod) -> bool:
        return (
            (self.role is None or pod.role == self.role)
            and (self.attempt is None or pod.attempt == self.attempt)
            and (self.rank is None or pod.rank == self.rank)
        )


@dataclass(frozen=True)
class Pod:
    """A pod of a run, as far as its log is concerned."""

    name: str
    uid: str
    namespace: str
    role: str
    attempt: int | None
    rank: int
    started: bool
    """Its container wrote or could have written."""
    ended: bool
    """Its container will write nothing more."""

    @property
    def order(self) -> tuple[int, int, int]:
        role = ROLES.index(self.role) if self.role in ROLES else len(ROLES)
        return role, self.attempt or 0, self.rank


def pod_of(item: Mapping[str, Any]) -> Pod:
    """A Pod from an object of the API server."""
    metadata = item["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    state = _container_state(item)
    attempt = labels.get("rewarm.dev/attempt", "")
    rank = labels.get(_INDEX) or annotations.get(_INDEX) or "0"
    role = labels.get("rewarm.dev/role", "trainer")
    ended = "terminated" in state or (item.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        role=role,
        attempt=int(attempt) if attempt.isdigit() and role != "prepare" else None,
        rank=int(rank) if rank.isdigit() else 0,
        started="running" in state or "terminated" in state,
        ended=ended,
    )


def _container_state(item: Mapping[str, Any]) -> Mapping[str, Any]:
    for container in (item.get("status") or {}).get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            state: Mapping[str, Any] = container.get("state") or {}
            return state
    return {}


def line_of(pod: Pod, raw: str) -> LogLine:
    """`2026-01-31T12:00:00.000000000Z text` as a LogLine."""
    time, _, text = raw.partition(" ")
    return LogLine(time=time, role=pod.role, attempt=pod.attempt, rank=pod.rank, text=text.removesuffix("\r"))


def snapshot_lines(pods: Iterable[Pod], selection: Selection, read: Reader) -> Iterator[LogLine]:
    """What was written until now: role by role, attempt by attempt; the ranks of one attempt merged by time."""
    wanted = sorted((pod for pod in pods if pod.started and selection.takes(pod)), key=lambda pod: pod.order)
    groups: dict[tuple[str, int | None], list[Pod]] = {}
    for pod in wanted:
        groups.setdefault((pod.role, pod.attempt), []).append(pod)
    for members in groups.values():
        streams = [_until_broken(pod, read) for pod in members]
        yield from heapq.merge(*streams, key=lambda line: instant(line.time))


def _until_broken(pod: Pod, read: Reader) -> Iterator[LogLine]:
    try:
        for raw in read(pod, ""):
            yield line_of(pod, raw)
    except (StreamEnded, GoneError):
        return
    except DeniedError:
        raise
    except RewarmError as error:
        # A node that is gone must not hide what the others wrote.
        yield _missed(pod, error)


def _missed(pod: Pod, error: RewarmError) -> LogLine:
    words = f"the log of pod {pod.name} cannot be read: {' '.join(str(error).split())}"
    return LogLine(time="", role=pod.role, attempt=pod.attempt, rank=pod.rank, text=words, missed=True)


class Follower:
    """Follows every wanted pod, those of later attempts too, until the run has ended and every log was read."""

    def __init__(self, selection: Selection, read: Reader) -> None:
        self._selection, self._read = selection, read
        self._queue: queue.SimpleQueue[LogLine | BaseException | None] = queue.SimpleQueue()
        self._pods: dict[str, Pod] = {}
        self._reading = 0
        self._begun: set[str] = set()
        self._finished = self._closed = False
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        return self._closed

    def pod(self, pod: Pod) -> None:
        """A pod that is new, or has changed."""
        with self._changed:
            self._pods[pod.uid] = pod
            self._changed.notify_all()
            wanted = pod.started and pod.uid not in self._begun and self._selection.takes(pod)
            if not wanted or self._finished:
                return
            self._begun.add(pod.uid)
            self._reading += 1
        threading.Thread(target=self._follow, args=(pod,), daemon=True).start()

    def gone(self, pod: Pod) -> None:
        """A pod that was deleted."""
        with self._changed:
            self._pods.pop(pod.uid, None)
            self._changed.notify_all()

    def finish(self) -> None:
        """No pod will come any more: those that are being read are read to their end."""
        with self._changed:
            self._finished = True
            over = not self._reading
        if over:
            self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        """Watching broke: `lines` raises this."""
        self._queue.put(error)

    def close(self) -> None:
        """Nobody reads on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def lines(self) -> Iterator[LogLine]:
        """Lines as they come; ends once the run has ended and every log was read."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _follow(self, pod: Pod) -> None:
        try:
            self._read_out(pod)
        except BaseException as error:
            self.fail(error)
        with self._changed:
            self._reading -= 1
            over = self._finished and not self._reading
        if over:
            self._queue.put(None)

    def _read_out(self, pod: Pod) -> None:
        """A stream may break off while its container runs on: the log is read again from the last line told."""
        since, failures = "", 0
        while not self._closed:
            ended = self._ended(pod)
            try:
                for raw in self._read(pod, since):
                    line = line_of(pod, raw)
                    failures = 0
                    if not since or instant(line.time) > instant(since):
                        since = line.time
                        self._queue.put(line)
            except StreamEnded:
                ended = False
            except GoneError:
                return
            except RewarmError as error:
                ended, failures = False, failures + 1
                # An API server that comes back refuses for a moment what it allowed before.
                if isinstance(error, DeniedError) and (not since or failures > _REFUSALS):
                    raise
                if failures > _FAILURES:
                    self._queue.put(_missed(pod, error))
                    return
            if ended:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._ended(pod), timeout=_PAUSE)

    def _ended(self, pod: Pod) -> bool:
        now = self._pods.get(pod.uid)
        return now is None or now.ended


def instant(time: str) -> str:
    """A time in a form that sorts as text: `...:05Z`, `...:05.1Z` and `...:05.12Z` have the same width."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}"
