"""What else a cluster does to an operator: refusals, silence, absence, wrong clocks, two of it, and people's hands.

A case starts its life itself (`act` submits the run) and says afterwards how often its fault struck.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fault_proxy import Fault, Request
from operator_process import ROOT, Kubelet, OperatorProcess, Place, role

from campaigns.operator_hands import (
    TWICE,
    Node,
    deleted_by_hand,
    node_gone,
    pod_deleted,
    prepare_deleted,
    stuck_terminating,
    taken_away,
)
from campaigns.operator_stage import (
    HARD,
    PLAIN,
    Json,
    Keeper,
    Kubelets,
    Life,
    Operators,
    Outcome,
    Scene,
    Stage,
    Struck,
    kubelet,
    one_operator,
)
from campaigns.world import PATIENCE

AWAY_SECONDS = 120.0
SKEW_SECONDS = 600
FROZEN_SECONDS = 12.0
"""Longer than the Lease of those that are frozen (6 s) runs, and the next one needs to begin."""
UPGRADES = 2
"""While the first attempt runs, at least; more come in the course of a life."""


@dataclass(frozen=True)
class Case:
    """`act`: submits the run, does what is done to it, returns a count of faults. `differs`: from a peaceful end."""

    kind: str
    act: Callable[[Scene], Struck]
    life: Life = PLAIN
    operators: Operators = field(default_factory=one_operator)
    kubelets: Kubelets = kubelet
    differs: Json = field(default_factory=dict)
    is_quick: bool = True


# -- an API server on a bad day ----------------------------------------------------------------------------------------


def every_second(match: Callable[[Request], bool], **fault: Any) -> Callable[[Scene], Struck]:
    """Each write is struck at its first try, and done at its second."""

    def act(scene: Scene) -> Struck:
        tries: Counter[str] = Counter()

        def is_first(request: Request) -> bool:
            if not match(request):
                return False
            tries[str(request)] += 1
            return tries[str(request)] % 2 == 1

        added = scene.place.proxy.add(Fault(is_first, times=None, **fault))
        scene.submit()
        return lambda: added.struck

    return act


def a_write(request: Request) -> bool:
    return request.is_write


def a_list(request: Request) -> bool:
    return (
        request.method == "GET" and not request.is_watch and request.path.rstrip("/").endswith(("jobs", "pods", "runs"))
    )


def watches(plural: str, times: int | None, **fault: bool) -> Callable[[Scene], Struck]:
    def act(scene: Scene) -> Struck:
        matches = Fault(lambda each: each.is_watch and each.path.endswith(f"/{plural}"), times=times, **fault)
        scene.place.proxy.add(matches)
        scene.place.proxy.cut()  # watches that stand begin anew, and meet it
        scene.submit()
        return lambda: matches.struck

    return act


def away(scene: Scene) -> Struck:
    """While the attempt ends, and for minutes after it."""
    scene.submit()
    scene.running()
    scene.place.proxy.away = True
    scene.place.proxy.cut()
    scene.kubelet.release()
    time.sleep(AWAY_SECONDS)
    scene.place.proxy.clear()
    return lambda: 1


class Held(Kubelet):
    """A kubelet whose pods go on for ever where `holds` says so, until they are released."""

    def __init__(self, place: Place, life: Life, holds: Callable[[Json], bool]) -> None:
        self._released = threading.Event()
        super().__init__(
            place.cluster,
            place.namespace,
            lambda pod: None if holds(pod) and not self._released.is_set() else life.ends(pod),
        )

    def release(self) -> None:
        """They end as their life says; an event makes the kubelet look at them."""
        self._released.set()
        touched = {"metadata": {"annotations": {"campaign": "look again"}}}
        for pod in self.api.get(self.pods)["items"]:
            self.api.call("PATCH", f"{self.pods}/{pod['metadata']['name']}", touched)


def holds_attempts(place: Place, life: Life) -> Held:
    return Held(place, life, lambda pod: role(pod) != "prepare")


def holds_preparation(place: Place, life: Life) -> Held:
    return Held(place, life, lambda pod: role(pod) == "prepare")


def api_server_killed(stage: Stage, expected: Json) -> Outcome:
    """`kill -9` of the real kube-apiserver while an attempt ends; 20 s later it is back. Disturbs everything."""
    with stage.scene(PLAIN, one_operator(), holds_attempts) as scene:
        scene.submit()
        scene.running()
        scene.kubelet.release()
        stage.cluster.stop_apiserver()
        time.sleep(20)
        stage.cluster.start_apiserver()
        outcome = scene.finish(expected)
        outcome.struck = {"kube-apiserver killed": 1}
        return outcome


# -- clocks ------------------------------------------------------------------------------------------------------------


def in_peace(scene: Scene) -> Struck:
    scene.submit()
    return lambda: 1


def _skewed(operator: OperatorProcess, seconds: int) -> OperatorProcess:
    operator.command = (sys.executable, str(ROOT / "tests/support/skewed_operator.py"), str(seconds))
    return operator


def wrong_clock(seconds: int) -> Operators:
    return lambda place: Keeper(_skewed(place.operator(), seconds))


def wrong_nodes(seconds: int) -> Kubelets:
    return lambda place, life: Kubelet(place.cluster, place.namespace, life.ends, clock_s=seconds)


# -- two operators -----------------------------------------------------------------------------------------------------


class Upgrades:
    """A rolling upgrade after another: the next operator stands by, then the one that leads is told to go (or dies)."""

    def __init__(self, place: Place, *, kill: bool = False, skews: tuple[int, ...] = ()) -> None:
        self._place, self._kill, self._skews = place, kill, skews
        self.count = 0
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upgrades", daemon=True)

    def __enter__(self) -> Upgrades:
        self._current = self._next(0)
        self._current.lead()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join(120)
        self._current.kill()

    def _next(self, number: int) -> OperatorProcess:
        operator = self._place.operator(f"operator-{number}", lease_seconds="5")
        if self._skews:
            _skewed(operator, self._skews[number % len(self._skews)])
        return operator.start()

    def _run(self) -> None:
        while not self._leaving.wait(0.5):
            following = self._next(self.count + 1)
            following.await_metric("rewarm_operator_leader", 0.0)
            if self._kill:
                self._current.kill()
            else:
                self._current.end()
            self._current = following
            self.count += 1
            following.lead()


def upgraded(scene: Scene) -> Struck:
    scene.submit()
    scene.running()
    give_up = time.monotonic() + PATIENCE
    while scene.operators.count < UPGRADES and time.monotonic() < give_up:
        time.sleep(0.1)
    scene.kubelet.release()
    return lambda: int(scene.operators.count)


class Pair:
    """Two that are both kept; the one that leads is frozen, and wakes when the other one has taken over."""

    def __init__(self, place: Place) -> None:
        self.keepers = [Keeper(place.operator(f"operator-{number}", lease_seconds="6")) for number in (1, 2)]

    def __enter__(self) -> Pair:
        self.keepers[0].__enter__()
        self.keepers[0].lead()
        self.keepers[1].__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for keeper in self.keepers:
            keeper.operator.thaw()
            keeper.__exit__()


def late(match: Callable[[Request], bool]) -> Callable[[Scene], Struck]:
    """The leader is frozen in a write; the write is done when another one leads, and then the first one wakes."""

    def act(scene: Scene) -> Struck:
        first: OperatorProcess = scene.operators.keepers[0].operator
        fault = Fault(match, delay_s=FROZEN_SECONDS, begin=lambda _: first.freeze(), call=lambda _: first.thaw())
        scene.place.proxy.add(fault)
        scene.submit()
        return lambda: fault.struck

    return act


def names(method: str, ending: str) -> Callable[[Request], bool]:
    return lambda request: request.method == method and str(request).endswith(ending)


REFUSALS: dict[str, dict[str, Any]] = {
    "409 to a write": {"status": 409, "reason": "Conflict"},
    "429 to a write": {"status": 429, "reason": "TooManyRequests", "headers": {"Retry-After": "1"}},
    "500 to a write": {"status": 500, "reason": "InternalError"},
    "503 to a write": {"status": 503, "reason": "ServiceUnavailable"},
    "a write lost": {"drop": True},
    "an answer lost": {"drop": True, "forward": True},
    "a write 1 s late": {"delay_s": 1.0},
}

CASES = (
    Case("API server away for 2 minutes", away, kubelets=holds_attempts, is_quick=False),
    Case(
        "the same, with a Lease that outlives it",
        away,
        kubelets=holds_attempts,
        operators=one_operator(lease_seconds="300"),
        is_quick=False,
    ),
    Case("a node gone", node_gone, TWICE, kubelets=Node, differs=taken_away("NodeLost"), is_quick=False),
    Case(
        "a pod stuck Terminating",
        stuck_terminating,
        TWICE,
        one_operator(stuck_margin_seconds="5"),
        Node,
        taken_away("NodeLost"),
    ),
    *(Case(kind, every_second(a_write, **fault), HARD) for kind, fault in REFUSALS.items()),
    Case("429 to a list", every_second(a_list, status=429, headers={"Retry-After": "1"})),
    Case("503 to a list", every_second(a_list, status=503)),
    *(Case(f"410 to a watch of {kind}", watches(kind, 3, gone=True)) for kind in ("jobs", "pods", "continualruns")),
    *(
        Case(f"a watch of {kind} silent", watches(kind, None, silent=True))
        for kind in ("jobs", "pods", "continualruns")
    ),
    Case("its clock 10 min ahead", in_peace, HARD, wrong_clock(SKEW_SECONDS)),
    Case("its clock 10 min behind", in_peace, HARD, wrong_clock(-SKEW_SECONDS)),
    Case("clocks of nodes 10 min ahead", in_peace, HARD, kubelets=wrong_nodes(SKEW_SECONDS)),
    Case("clocks of nodes 10 min behind", in_peace, HARD, kubelets=wrong_nodes(-SKEW_SECONDS)),
    Case("rolling upgrade", upgraded, HARD, Upgrades, holds_attempts),
    Case("leader killed, the other waits", upgraded, HARD, lambda place: Upgrades(place, kill=True), holds_attempts),
    Case(
        "rolling upgrade, clocks 20 min apart",
        upgraded,
        HARD,
        lambda place: Upgrades(place, skews=(SKEW_SECONDS, -SKEW_SECONDS)),
        holds_attempts,
    ),
    Case("frozen in its first write", late(names("PATCH", "/continualruns/run")), PLAIN, Pair),
    Case("frozen when it writes a status", late(names("PATCH", "/status")), PLAIN, Pair),
    Case("frozen when it posts a Job", late(names("POST", "/run-a1")), PLAIN, Pair),
    Case("frozen when it deletes a Job", late(names("DELETE", "/run-a2")), HARD, Pair),
    Case("a Job deleted by hand", deleted_by_hand("Background"), TWICE, differs=taken_away("Preempted")),
    Case("a Job deleted by hand, pods left", deleted_by_hand("Orphan"), TWICE, differs=taken_away("Preempted")),
    Case(
        "a Job deleted by hand, no operator there",
        deleted_by_hand("Background", dead=True),
        TWICE,
        differs=taken_away("Preempted"),
    ),
    Case("the preparation deleted by hand", prepare_deleted, kubelets=holds_preparation),
    Case("a pod deleted by hand", pod_deleted, TWICE, differs=taken_away("Preempted")),
)
"""Each with how its run must end; those that last for minutes are not quick."""
