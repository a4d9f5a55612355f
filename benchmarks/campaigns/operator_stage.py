"""The stage of the campaign `operator`: lives of runs on a real API server, and the judge of how each of them ended.

A *life* is what people and machines do to a run: how each attempt ends, when it is suspended, that it is deleted. The
operator is a real process, the API server and the Job controller are real ones; kubelets are played.
"""

from __future__ import annotations

import http.client
import itertools
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from operator_places import place_in
from operator_process import End, Kubelet, OperatorProcess, Place, attempt, condition, ended, role, succeed

from campaigns.world import PATIENCE
from rewarm_cluster.control_plane import ControlPlane

Json = dict[str, Any]
Struck = Callable[[], int]
"""How often a fault has struck by now."""

_OVER = ("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet")
_AWAY = (OSError, AssertionError, ValueError, http.client.HTTPException)
"""What a watch says when its API server is away, or goes away in the middle of a line."""
KEPT_JOBS = 4
"""Preparation's, and those of the newest attempts."""
SETTLE_SECONDS = 60.0
"""How long after its verdict a run may take to stand as it should: old Jobs are cleaned after it."""


@dataclass(frozen=True)
class Life:
    """`ends`: how each pod ends; `suspended`: the attempt in which the run is suspended and resumed, 0: none."""

    ends: Callable[[Json], End | None]
    nodes: int = 1
    suspended: int = 0


def preempted(pod: Json) -> Json:
    """What the scheduler and the kubelet write on a pod that makes room for another."""
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "made room"}
    return {**ended(pod, 143), "conditions": [target]}


def _hard(pod: Json) -> End | None:
    """Fails, is suspended, is preempted, and comes to its end in the fourth attempt."""
    fates: dict[int, End | None] = {1: (70, "a bug"), 2: None}
    if role(pod) == "prepare" or attempt(pod) > 3:
        return succeed(pod)
    return fates[attempt(pod)] if attempt(pod) in fates else preempted(pod)


PLAIN = Life(succeed, nodes=2)
HARD = Life(_hard, suspended=2)


class Keeper:
    """Starts an operator again whenever it has ended, as its Deployment does."""

    def __init__(self, operator: OperatorProcess) -> None:
        self.operator = operator
        self.codes: list[int] = []
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def __enter__(self) -> Keeper:
        self.operator.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join(30)
        self.operator.kill()

    def lead(self) -> None:
        """Until it is the active one, however often it has to be started."""
        give_up = time.monotonic() + PATIENCE
        while self.operator.metric("rewarm_operator_leader") != 1.0 and time.monotonic() < give_up:
            time.sleep(0.1)

    def _run(self) -> None:
        while not self._leaving.is_set():
            assert self.operator.process is not None
            try:
                code = self.operator.process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            self.codes.append(code)
            if not self._leaving.wait(0.2):
                self.operator.start()


LARGEST_GAP = 20
"""Writes, of all namespaces together, that the history of Jobs may leave out."""


class History:
    """Every Job of a namespace that ever was, by a watch that nothing disturbs."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.uids: dict[str, list[str]] = {}
        self.problems: list[str] = []
        self._alive: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def __enter__(self) -> History:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(15)

    @property
    def attempts(self) -> dict[int, list[str]]:
        """Uids of the Jobs of each attempt: one each, or it was made twice."""
        found = ((re.fullmatch(r"run-a(\d+)", name), uids) for name, uids in self.uids.items())
        return {int(match[1]): uids for match, uids in found if match}

    def _run(self) -> None:
        version = self._place.since
        while not self._stop.is_set():
            try:
                # Bookmarks: where no Job of this place changes, its version would grow older than a server remembers.
                asked = {"resourceVersion": version, "allowWatchBookmarks": "true"}
                for event in self._place.api.watch(self._place.jobs, timeout_s=5, **asked):
                    if event["type"] == "ERROR":
                        version = self._bridge(event["object"], version)
                        break
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._see(event["type"], event["object"])
            except _AWAY:
                self._stop.wait(0.3)

    def _bridge(self, error: Json, version: str) -> str:
        """Where to go on after an error. An API server that was killed remembers only what it read at its start.

        A Job could be made and be gone unseen only in a gap with room for it: both, with finalizers and pods, are
        dozens of writes.
        """
        oldest = re.search(r"too old resource version: \d+ \((\d+)\)", str(error.get("message")))
        if oldest and int(oldest[1]) - int(version) <= LARGEST_GAP:
            return oldest[1]
        self.problems.append(f"the history of Jobs has a gap after {version}: {error.get('message')}")
        return str(self._place.api.get(self._place.jobs)["metadata"]["resourceVersion"])

    def _see(self, kind: str, job: Json) -> None:
        name = job["metadata"]["name"]
        uids = self.uids.setdefault(name, [])
        if job["metadata"]["uid"] not in uids:
            uids.append(job["metadata"]["uid"])
            if others := sorted(self._alive - {name}):
                self.problems.append(f"{name} was made while {', '.join(others)} lived")
        stated = {c["type"] for c in job.get("status", {}).get("conditions", ()) if c["status"] == "True"}
        is_over = kind == "DELETED" or "deletionTimestamp" in job["metadata"] or bool(stated & {*_OVER})
        self._alive = self._alive - {name} if is_over else self._alive | {name}


def facts(place: Place, path: str) -> Json:
    """What must be the same whatever struck: all but times, names of machines and numbers of versions."""
    run = place.api.get(path)
    status, uid = run.get("status") or {}, run["metadata"]["uid"]
    jobs = place.api.get(place.jobs)["items"]
    verdicts = {job["metadata"]["name"]: verdict(job) for job in jobs}
    core = f"/api/v1/namespaces/{place.namespace}"
    children = [*jobs, place.api.get(f"{core}/configmaps/run"), place.api.get(f"{core}/services/run")]
    foreign = [
        child["metadata"]["name"]
        for child in children
        if [owner["uid"] for owner in child["metadata"].get("ownerReferences", ())] != [uid]
    ]
    return {
        "summary": status.get("summary"),
        "conditions": {each["type"]: f"{each['status']} {each['reason']}" for each in status.get("conditions", ())},
        "counts": status.get("counts"),
        "attempts": {each["number"]: each.get("cause") for each in status.get("attempts", ())},
        "checkpoint": (status.get("checkpoint") or {}).get("step"),
        "evaluation": status.get("evaluation"),
        "generation seen": status.get("observedGeneration") == run["metadata"]["generation"],
        "snapshot kept": str(status.get("snapshotDigest")) in str(children[-2].get("data")),
        "finalizers": run["metadata"].get("finalizers"),
        "annotations": sorted(run["metadata"].get("annotations") or ()),
        # Which Jobs of ended attempts are kept depends on whether they were over when the end was noticed.
        "jobs": {name: verdict for name, verdict in verdicts.items() if verdict != "Failed"},
        "jobs kept": len(verdicts) <= KEPT_JOBS,
        "children of others": foreign,
    }


def verdict(job: Json) -> str:
    """How a Job ended; empty while it goes on."""
    stated = {c["type"] for c in job.get("status", {}).get("conditions", ()) if c["status"] == "True"}
    return next((kind for kind in ("Complete", "Failed") if kind in stated), "")


@dataclass
class Outcome:
    """What one life came to. `struck`: faults by kind; the rest as in the table."""

    struck: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    without_cause: int = 0
    doubled: int = 0
    missed: list[Any] = field(default_factory=list)
    """Faults that were meant for this life, and did not come to strike."""


@dataclass
class Scene:
    """One life on its place, with its operator and its kubelet."""

    place: Place
    life: Life
    history: History
    operators: Any
    kubelet: Any
    path: str = ""

    def submit(self) -> None:
        self.path = self.place.submit(spec__compute=f"{{nodes: {self.life.nodes}, gpusPerNode: 0}}")

    def until(self, holds: Callable[[Json], bool]) -> Json:
        """Until something is so of the run."""
        found = self.place.api.wait(self.path, lambda run: run is not None and holds(run), within_s=PATIENCE)
        assert found is not None
        return found

    def running(self, number: int = 1) -> None:
        """Until that attempt runs."""
        self.until(
            lambda run: condition(run, "Running")[0] == "True" and run["status"]["counts"].get("attempts") == number
        )

    def acts(self) -> None:
        """What people do in the course of this life."""
        number = self.life.suspended
        if not number:
            return
        self.running(number)
        self.place.edit(self.path, {"spec": {"suspend": True}})
        self.until(lambda run: condition(run, "Suspended")[0] == "True" and _cause(run, number) == "Suspended")
        self.place.edit(self.path, {"spec": {"suspend": False}})

    def finish(self, expected: Json) -> Outcome:
        """To the verdict, and then to the run's deletion; what is not as expected."""
        self.until(lambda run: condition(run, "Succeeded")[0] in ("True", "False"))
        give_up = time.monotonic() + SETTLE_SECONDS
        while (found := facts(self.place, self.path)) != expected and time.monotonic() < give_up:
            time.sleep(0.2)
        problems = [
            f"{name}: found {found[name]}, expected {expected[name]}"
            for name in expected
            if found[name] != expected[name]
        ]
        causes: dict[int, str | None] = found["attempts"]
        without = [number for number in {*causes, *self.history.attempts} if not causes.get(number)]
        return self._judged(problems + self.end(), without)

    def _judged(self, problems: list[str], without: list[int]) -> Outcome:
        doubled = sum(len(uids) - 1 for uids in self.history.attempts.values())
        problems += [f"attempt {number} has no cause" for number in without]
        problems += [
            f"attempt {number} had {len(uids)} Jobs" for number, uids in self.history.attempts.items() if uids[1:]
        ]
        return Outcome({}, problems + self.history.problems, len(without), doubled)

    def end(self) -> list[str]:
        """Delete the run: it goes, and its Jobs with it."""
        assert self.place.api.call("DELETE", self.path)[0] == 200
        try:
            self.place.api.wait(self.path, lambda run: run is None, within_s=PATIENCE)
            for name in self.place.job_names():
                self.place.api.wait(f"{self.place.jobs}/{name}", lambda job: job is None, within_s=PATIENCE)
        except AssertionError as error:
            return [f"deleted: {str(error)[:200]}"]
        return []


def _cause(run: Json, number: int) -> str:
    entries = run["status"].get("attempts", ())
    return next((str(each.get("cause", "")) for each in entries if each["number"] == number), "")


Operators = Callable[[Place], AbstractContextManager[Any]]
Kubelets = Callable[[Place, Life], AbstractContextManager[Kubelet]]


def one_operator(**settings: str) -> Operators:
    """One operator, started again when it dies."""
    return lambda place: Keeper(place.operator(**settings))


def kubelet(place: Place, life: Life) -> Kubelet:
    return place.kubelet(life.ends)


@dataclass
class Stage:
    """The control plane of a campaign; a new namespace for each life."""

    cluster: ControlPlane
    folder: Path
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _making: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def scene(self, life: Life, operators: Operators, kubelets: Kubelets = kubelet) -> Iterator[Scene]:
        """Everything is started and nothing has happened yet."""
        with ExitStack() as stack:
            with self._making:
                name = f"life-{next(self._numbers)}"
                folder = self.folder / name
                folder.mkdir(parents=True)
                place = stack.enter_context(place_in(self.cluster, name, folder))
            history = stack.enter_context(History(place))
            played = stack.enter_context(kubelets(place, life))
            yield Scene(place, life, history, stack.enter_context(operators(place)), played)

    def undisturbed(self, life: Life) -> tuple[Json, list[Any]]:
        """How a life ends in peace, and every request of the operator on the way there and through its deletion."""
        with self.scene(life, one_operator()) as scene:
            scene.submit()
            scene.acts()
            scene.until(lambda run: condition(run, "Succeeded")[0] in ("True", "False"))
            scene.operators.operator.await_metric("rewarm_operator_queue_depth", 0.0)
            expected = facts(scene.place, scene.path)
            # The Job controller may need a moment for its last word.
            while "" in expected["jobs"].values():
                time.sleep(0.5)
                expected = facts(scene.place, scene.path)
            outcome = scene.finish(expected)
            if outcome.problems:
                raise SystemExit(f"a run that nobody disturbed ended wrongly already: {outcome.problems}")
            return expected, list(scene.place.proxy.requests)
