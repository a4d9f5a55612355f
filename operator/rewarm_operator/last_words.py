"""Pods that ended and were deleted since: how they ended goes with their DELETED event, and who decides comes later.

Kept for a while and bounded: what nobody has read by then, nobody will.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from rewarm_operator import pods
from rewarm_operator.resources import owner_uids

Json = dict[str, Any]
Place = tuple[frozenset[str], int]
"""The Job that owns a pod, and its index there: one pod at a time."""

KEPT_SECONDS = 120.0
_RUNS, _PODS_OF_A_RUN = 512, 1024


class LastWords:
    """By uid of the run. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # The run whose pod was deleted last stands last.
        self._runs: OrderedDict[str, OrderedDict[Place, tuple[float, Json]]] = OrderedDict()

    def keep(self, run_uid: str, pod: Json) -> None:
        """The pod is gone. One that never came to its end has nothing to say."""
        if not pods.is_terminal(pod):
            return
        now = self._clock()
        places = self._runs.setdefault(run_uid, OrderedDict())
        self._runs.move_to_end(run_uid)
        places[place(pod)] = (now + KEPT_SECONDS, pod)
        places.move_to_end(place(pod))
        if len(places) > _PODS_OF_A_RUN:
            places.popitem(last=False)
        while len(self._runs) > _RUNS or _newest(next(iter(self._runs.values()))) <= now:
            self._runs.popitem(last=False)

    def replaced(self, run_uid: str, pod: Json) -> None:
        """Another pod has the place: what the one before it said is no longer of interest."""
        places = self._runs.get(run_uid)
        if places is not None and place(pod) in places:
            del places[place(pod)]
            if not places:
                del self._runs[run_uid]

    def forget(self, run_uid: str) -> None:
        self._runs.pop(run_uid, None)

    def of(self, run_uid: str) -> tuple[Json, ...]:
        """Pods as they were at their end, oldest deletion first."""
        now = self._clock()
        return tuple(pod for until, pod in self._runs.get(run_uid, {}).values() if until > now)


def place(pod: Json) -> Place:
    return frozenset(owner_uids(pod)), pods.index(pod)


def _newest(places: OrderedDict[Place, tuple[float, Json]]) -> float:
    """Until when the newest of them is kept."""
    return next(reversed(places.values()))[0]
