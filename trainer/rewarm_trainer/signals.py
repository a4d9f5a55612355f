"""Being asked to stop, and noticing that the parent died.

First SIGTERM or Ctrl-C: finish the step, commit, exit 143. A second Ctrl-C stops at once. Before training has begun
there is nothing to commit, so the first one already stops.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

from rewarm_api.errors import Preempted

_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Set by a signal, read by the loop at the end of each step."""

    def __init__(self) -> None:
        self.asked = False
        self.in_training = False

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            print("stopped at once; the last committed checkpoint stands", file=sys.stderr, flush=True)
            os._exit(128 + signal.SIGINT)
        first, self.asked = not self.asked, True
        if not self.in_training:
            raise Preempted("stopped before training began; start the same command again to go on")
        if first and number == signal.SIGINT:
            print("finishing this step and committing a checkpoint; Ctrl-C again stops at once", file=sys.stderr)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies: a worker must not write on after its launcher."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with(parent: int) -> None:
    """`die_with_parent`, also when `parent` is dead by now."""
    die_with_parent()
    if os.getppid() != parent:
        os._exit(70)


class ParentWatch:
    """Whether the parent that started this process is still there; checked at each step beside the death signal."""

    def __init__(self) -> None:
        self._parent = os.getppid()

    def check(self) -> None:
        if os.getppid() != self._parent:
            os._exit(70)
