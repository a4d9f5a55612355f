"""Named points at which a process ends itself as `kill -9` would: for the fault campaigns, and for nothing else.

    REWARM_FAULT_POINT=commit.file:3        SIGKILL when `commit.file` is reached the third time
    REWARM_FAULT_POINT=commit.file:3:STOP   SIGSTOP instead: the process freezes there until somebody continues it

Unset, a point costs one comparison. No manifest can set it: variables of this prefix are reserved in pod templates, and
in a pod, where a secret could bring it along, it is not read at all.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

VARIABLE = "REWARM_FAULT_POINT"
IN_POD = "REWARM_RUN"
POINTS = (
    "claim.before", "claim.after",
    "stage.file", "stage.done",
    "commit.begin", "commit.cleared", "commit.file", "commit.files", "commit.manifest", "commit.fenced",
    "commit.marker",
    "prune.begin", "delete.marker", "prune.done",
    "write.beside",
    "restore.done", "look.begin",
)  # fmt: skip
_SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP}


@dataclass
class Armed:
    """The point that strikes, the visits to it that are left, and the signal."""

    point: str
    left: int
    number: signal.Signals


def armed(text: str | None, in_pod: bool) -> Armed | None:
    """What the variable says; ValueError when it names no point, so that a campaign cannot miss silently."""
    if not text or in_pod:
        return None
    point, _, rest = text.partition(":")
    count, _, name = rest.partition(":")
    if point not in POINTS or not count.isdigit() or int(count) < 1 or (name or "KILL") not in _SIGNALS:
        raise ValueError(f"{VARIABLE}={text}: expected POINT:N or POINT:N:STOP, a point of {', '.join(POINTS)}")
    return Armed(point, int(count), _SIGNALS[name or "KILL"])


class _Faults:
    """Read at the first point that is reached, not by an import: a forked process has an environment of its own."""

    def __init__(self) -> None:
        self._is_read = False
        self._armed: Armed | None = None

    def reached(self, point: str) -> None:
        if not self._is_read:
            self._is_read = True
            self._armed = armed(os.environ.get(VARIABLE), IN_POD in os.environ)
        if self._armed is None or self._armed.point != point:
            return
        self._armed.left -= 1
        if self._armed.left == 0:
            os.kill(os.getpid(), self._armed.number)


reached = _Faults().reached
