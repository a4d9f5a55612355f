"""`make test-cluster`: everything that needs a real cluster, with all its own set-up, and how long each part took."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import binaries, packages
from .errors import ClusterError
from .images import Builder
from .node import STATE, Cluster

ROOT = Path(__file__).parents[3]
LOUD = "!" * 100
FIRST_MINUTES = 27.0
"""What the parts before the end-to-end ones take on a slow machine: 13 to build, 12 to test."""
END_TO_END_SHARE = 1.6
"""What the end-to-end parts take, of what those before them took on the same machine."""


class Suite:
    """The parts in their order; a part that fails ends the suite, but the table is always printed.

    minutes: how long it may take, None for any time. What would not end in it is left out, and said loudly: a suite
    that is killed at its limit says nothing at all.
    """

    def __init__(self, say: Callable[[str], None], minutes: float | None = None) -> None:
        self._say = say
        self._minutes = minutes
        self._rows: list[tuple[str, float, str]] = []

    def _is_time_for(self, title: str, needed: float) -> bool:
        """`needed`: minutes, of this part and those that it is made for."""
        if self._minutes is None:
            return True
        left = self._minutes - self._spent()
        if left >= needed:
            return True
        self._say(
            f"{LOUD}\ntest-cluster: LEFT OUT from here on: {title}. {left:.0f} minutes are left, about {needed:.0f} "
            f"are needed on this machine. `make test-cluster` runs everything.\n{LOUD}"
        )
        self._rows.append((title, 0.0, "LEFT OUT, NO TIME"))
        return False

    def _spent(self) -> float:
        return sum(row[1] for row in self._rows) / 60

    def run(self) -> int:
        nothing, end_to_end = (lambda: 0.0), (lambda: END_TO_END_SHARE * self._spent())
        parts: list[tuple[str, Callable[[], bool], Callable[[], float]]] = [
            ("programs of the control plane", lambda: self._tools("control-plane"), lambda: FIRST_MINUTES),
            ("integration tests on a real API server", self._integration, nothing),
            ("programs of the node, S3, Helm, Kueue; both images", self._programs_and_images, end_to_end),
            ("end to end on a cluster", self._end_to_end, nothing),
        ]
        good = True
        for title, part, needed in parts:
            if not self._is_time_for(title, needed()):
                break
            started = time.monotonic()
            try:
                good = part()
            except ClusterError as error:
                self._say(f"error: {error}")
                good = False
            self._rows.append((title, time.monotonic() - started, "ok" if good else "FAILED"))
            if not good:
                break
        own = Cluster(state=STATE, say=self._say)
        if not os.environ.get("KUBECONFIG") and not own.running():
            # Tests keep the images in the node's folder from one session to the next; the suite leaves nothing.
            own.stop()
        self._say("\ntest-cluster:")
        for title, seconds, result in self._rows:
            self._say(f"  {title:<52} {seconds / 60:6.1f} min  {result}")
        self._say(f"  {'all':<52} {sum(row[1] for row in self._rows) / 60:6.1f} min")
        return 0 if good else 1

    def _tools(self, name: str) -> bool:
        binaries.build(binaries.SETS[name], self._say)
        packages.ensure(packages.E2E if name == "e2e" else packages.INTEGRATION, self._say)
        return True

    def _programs_and_images(self) -> bool:
        """At once: a compiler wants processors, an image mostly the network and the disk."""
        packages.ensure(packages.E2E, self._say)
        own = not os.environ.get("KUBECONFIG")
        with ThreadPoolExecutor() as pool:
            building = pool.submit(Builder(self._say).build) if own else None
            binaries.build(binaries.SETS["e2e"], self._say)
            if building is not None:
                building.result()
        return True

    def _integration(self) -> bool:
        """One retry of what failed, alone on the machine; never silently."""
        if self._pytest("-n", "2", "--dist", "loadfile", "-m", "cluster", "tests/integration") == 0:
            return True
        self._say(f"{LOUD}\ntest-cluster: INTEGRATION TESTS FAILED. What failed runs once more, by itself.\n{LOUD}")
        self._rows.append(("integration, first try", 0.0, "FAILED, RETRIED"))
        return self._pytest("-m", "cluster", "--last-failed", "tests/integration") == 0

    def _end_to_end(self) -> bool:
        """One retry of what failed, from a clean cluster; never silently."""
        first = time.monotonic()
        code = self._pytest("-m", "e2e", "--timeout", "1200", "tests/e2e")
        if code == 0:
            return True
        if os.environ.get("KUBECONFIG"):
            return False  # somebody's own cluster: not ours to clean
        self._say(
            f"{LOUD}\ntest-cluster: END-TO-END TESTS FAILED. What failed runs once more, from a clean cluster.\n{LOUD}"
        )
        self._rows.append(("end to end, first try", time.monotonic() - first, "FAILED, RETRIED"))
        Cluster(state=STATE, say=self._say).stop(keep_images=True)
        return self._pytest("-m", "e2e", "--timeout", "1200", "--last-failed", "tests/e2e") == 0

    def _pytest(self, *arguments: str) -> int:
        environment = {**os.environ, "REWARM_REQUIRE_CLUSTER": "1", "OMP_NUM_THREADS": "1"}
        command: Sequence[str] = [sys.executable, "-m", "pytest", "--durations", "10", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment).returncode
