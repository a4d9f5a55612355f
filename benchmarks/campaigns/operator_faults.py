"""Campaign `operator`: cluster faults. Killed at each of its writes, and everything else that a cluster does to it.

The writes are those that a proxy before the API server saw in a life that nobody disturbed, so none is forgotten. After
each fault: the same final state, exactly one Job for each attempt, no attempt without a cause, nothing left behind.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fault_proxy import WRITES, Fault, Request
from operator_places import control_plane
from rewarm_world import World

from campaigns.operator_cases import CASES, Case, api_server_killed
from campaigns.operator_stage import HARD, PLAIN, Json, Life, Outcome, Stage, one_operator
from campaigns.tally import OF_OPERATORS, CannotRun, Tally
from rewarm_cluster.control_plane import missing

SIDE_BY_SIDE = 3
"""Lives at once: mostly they wait."""
KILLS_OF_ONE_LIFE = 4
TRIES = 3
"""Writes may melt into one, so a kill that was aimed at one of them may find nothing to strike at the first try."""
LEASE_WRITES = 3
"""Made, and renewed twice: after that it is always the same."""


@dataclass(frozen=True)
class Point:
    """The n-th write of a kind, killed before it is done, or after it was done and before its answer."""

    kind: str
    number: int
    after: bool

    @property
    def label(self) -> str:
        return f"killed {'after' if self.after else 'before'}: {self.kind}"


def kind_of(request: Request) -> str:
    """What a write is about; empty for what is none."""
    if request.method not in WRITES or request.right is None:
        return ""
    _, resource, verb = request.right
    return {
        ("leases", "create"): "Lease",
        ("leases", "update"): "Lease",
        ("continualruns", "patch"): "finalizer",
        ("continualruns/status", "patch"): "status",
        ("configmaps", "create"): "ConfigMap",
        ("services", "create"): "Service",
        ("jobs", "create"): "Job",
        ("jobs", "delete"): "Job deleted",
        ("events", "create"): "Event",
        ("events", "patch"): "Event counted",
    }.get((resource, verb), f"{verb} {resource}" if resource != "tokenreviews" else "")


def points(requests: Iterable[Request]) -> list[Point]:
    """Before and after each write, in the order in which they came."""
    seen: Counter[str] = Counter()
    found = []
    for request in requests:
        kind = kind_of(request)
        seen[kind] += 1
        if kind and (kind != "Lease" or seen[kind] <= LEASE_WRITES):
            found += [Point(kind, seen[kind], after) for after in (False, True)]
    return found


def spread(all_points: Sequence[Point], of_one: int) -> list[list[Point]]:
    """Lives with up to so many kills each, far from each other."""
    lives = -(-len(all_points) // of_one)
    return [list(all_points[start::lives]) for start in range(lives)]


@dataclass
class Killer:
    """Two faults of a proxy: kills before and after the writes that are left. Called in the proxy's one thread."""

    kill: Callable[[], None]
    left: list[Point]
    struck: list[Point] = field(default_factory=list)
    _done: Counter[str] = field(default_factory=Counter)
    _after: Request | None = None

    def faults(self) -> tuple[Fault, Fault]:
        common: dict[str, Any] = {"times": None, "drop": True, "call": lambda _: self.kill()}
        return Fault(self.is_before, **common), Fault(lambda each: each is self._after, forward=True, **common)

    def is_before(self, request: Request) -> bool:
        kind = kind_of(request)
        if not kind:
            return False
        # A write before which it was killed is not done: it comes again under the same number.
        number = self._done[kind] + 1
        if self._take(Point(kind, number, False)):
            return True
        self._done[kind] = number
        if self._take(Point(kind, number, True)):
            self._after = request
        return False

    def _take(self, point: Point) -> bool:
        if point not in self.left:
            return False
        self.left.remove(point)
        self.struck.append(point)
        return True


def killed(stage: Stage, life: Life, expected: Json, aims: Sequence[Point]) -> Outcome:
    """One life, killed at these writes."""
    with stage.scene(life, lambda place: _armed(place, aims)) as scene:
        killer: Killer = scene.operators
        scene.submit()
        scene.acts()
        outcome = scene.finish(expected)
        outcome.struck = dict(Counter(point.label for point in killer.struck))
        outcome.missed = list(killer.left)
        return outcome


@contextmanager
def _armed(place: Any, aims: Sequence[Point]) -> Iterator[Killer]:
    """Armed before the operator starts: its first write is one of those."""
    keepers = one_operator()(place)
    killer = Killer(lambda: keepers.operator.kill(), list(aims))
    for fault in killer.faults():
        place.proxy.add(fault)
    with keepers:
        yield killer


def played(stage: Stage, case: Case, expected: Json) -> Outcome:
    """One life with one case's faults."""
    with stage.scene(case.life, case.operators, case.kubelets) as scene:
        struck = case.act(scene)
        scene.acts()
        outcome = scene.finish({**expected, **case.differs})
        outcome.struck = {case.kind: struck()}
        if not outcome.struck[case.kind]:
            outcome.problems.append(f"{case.kind}: never struck")
        return outcome


@dataclass
class Campaign:
    """Lives side by side, and what they add up to."""

    stage: Stage
    tally: Tally
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def kills(self, expected: Json, aims: Sequence[Point]) -> None:
        """Every point once; those that found nothing to strike again, each in a life of its own."""
        for round_ in range(TRIES):
            lives = spread(aims, KILLS_OF_ONE_LIFE if round_ == 0 else 1)
            outcomes = self._all([lambda aims=each: killed(self.stage, HARD, expected, aims) for each in lives])
            aims = [point for outcome in outcomes for point in outcome.missed]
            if not aims:
                return
        self.tally.notes.append(f"{len(aims)} writes melted into others each time: {', '.join(map(str, aims))}")

    def cases(self, expected: dict[str, Json], cases: Sequence[Case]) -> None:
        def one(case: Case) -> Callable[[], Outcome]:
            return lambda: played(self.stage, case, expected["hard" if case.life.suspended else "plain"])

        self._all([one(case) for case in cases])

    def _all(self, lives: Sequence[Callable[[], Outcome]]) -> list[Outcome]:
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            return list(pool.map(self._one, lives))

    def _one(self, live: Callable[[], Outcome]) -> Outcome:
        try:
            outcome = live()
        except Exception as error:
            outcome = Outcome({"a life that came to no end": 1}, [" ".join(str(error).split())[:600]])
        with self._telling:
            self.add(outcome)
        return outcome

    def add(self, outcome: Outcome) -> None:
        """Everything that struck a life was survived, or none of it."""
        problems = outcome.problems
        for number, (kind, count) in enumerate(sorted(outcome.struck.items())):
            self.tally.struck(kind, problems if number == 0 or not problems else ["as the one before"], count)
        self.tally.attempts_without_cause += outcome.without_cause
        self.tally.jobs_doubled += outcome.doubled
        for problem in problems:
            print(f"operator: {', '.join(outcome.struck)}: {problem}", file=sys.stderr)
        print(f"operator: {self.tally.injected} faults, {self.tally.survived} survived", file=sys.stderr, flush=True)


def campaign(world: World, *, count: int | None = None) -> Tally:
    """All of it; `count`: about so many kills, and the quick cases only."""
    if absent := missing("jobs"):
        raise CannotRun(f"{', '.join(absent)} not built: make cluster-tools")
    tally = Tally("operator and API server", columns=OF_OPERATORS)
    with control_plane() as cluster:
        stage = Stage(cluster, world.root)
        expected = {}
        expected["hard"], requests = stage.undisturbed(HARD)
        expected["plain"], _ = stage.undisturbed(PLAIN)
        aims = points(requests)
        tally.notes.append(
            f"The life of a run has {len(aims) // 2} writes, and it was killed before and after each of them; its "
            "attempts end by a failure, a suspension, a preemption, and well, then it is deleted"
        )
        work = Campaign(stage, tally)
        # Those that last for minutes first: the kills go on beside them.
        chosen = [case for case in CASES if count is None or case.is_quick]
        work.cases(expected, sorted(chosen, key=lambda case: case.is_quick))
        work.kills(expected["hard"], aims if count is None else aims[:: len(aims) // count | 1])
        if count is None:
            work.add(api_server_killed(stage, expected["plain"]))
        server = cluster.api.get("/version")["gitVersion"]
        tally.notes.append(
            f"kube-apiserver, kube-controller-manager and etcd are real ones ({server}), kubelets are played"
        )
    return tally
