"""`make test-cluster`: everything that needs a real cluster, with all its own set-up, and how long each part took."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from . import binaries, images, packages
from .errors import ClusterError
from .node import STATE, Cluster

ROOT = Path(__file__).parents[3]
LOUD = "!" * 100
FIRST_MINUTES = 27.0
"""What the parts before the end-to-end ones take on a slow machine: 13 to build, 12 to test."""
END_TO_END_SHARE = 1.0
"""Time worth beginning the end-to-end parts for, of what those before them took on the same machine. All of them take
about 1.6; those for which time does not suffice are left out one by one."""
LAST_MINUTES = 8.0
"""What the end-to-end test that runs when time is up may still take, with taking the cluster down."""
GO_CACHE = 7 * images.GIGABYTE
"""What the compiler of the node's programs keeps until they are all built."""


@dataclass(frozen=True)
class Part:
    """What is done, and what must be left to begin it and those it is made for: minutes, and bytes of disk."""

    title: str
    run: Callable[[], bool]
    minutes: Callable[[], float] = lambda: 0.0
    room: int = 0


class Suite:
    """The parts in their order; a part that fails ends the suite, but the table is always printed.

    minutes: how long it may take, None for any time. What would not end in it is left out, and said loudly: a suite
    that is killed at its limit says nothing at all. With it, so is what the disk has no room for.
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
        self._leave_out(
            title, f"{left:.0f} minutes are left, at least {needed:.0f} are needed on this machine.", "TIME"
        )
        return False

    def _is_room_for(self, title: str, needed: int) -> bool:
        """`needed`: bytes of disk, of this part and those that it is made for."""
        free = _free()
        if self._minutes is None or os.environ.get("KUBECONFIG") or free >= needed:
            return True
        gigabytes = f"{free / images.GIGABYTE:.0f} GB of disk are free, {needed / images.GIGABYTE:.0f} GB are needed."
        self._leave_out(title, gigabytes, "ROOM")
        return False

    def _leave_out(self, title: str, why: str, lack: str) -> None:
        self._say(
            f"{LOUD}\ntest-cluster: LEFT OUT from here on: {title}. {why} `make test-cluster` runs everything.\n{LOUD}"
        )
        self._rows.append((title, 0.0, f"LEFT OUT, NO {lack}"))

    def _spent(self) -> float:
        return sum(row[1] for row in self._rows) / 60

    def run(self) -> int:
        parts = [
            Part(
                "programs of the control plane", lambda: self._tools("control-plane"), lambda: FIRST_MINUTES, GO_CACHE
            ),
            Part("integration tests on a real API server", self._integration),
            Part(
                "programs of the node, S3, Helm, Kueue; both images",
                self._programs_and_images,
                lambda: END_TO_END_SHARE * self._spent(),
                images.NEEDED,
            ),
            Part("end to end on a cluster", self._end_to_end, room=images.IMPORT_NEEDED),
        ]
        good = True
        for part in parts:
            if not (self._is_time_for(part.title, part.minutes()) and self._is_room_for(part.title, part.room)):
                break
            started = time.monotonic()
            try:
                good = part.run()
            except ClusterError as error:
                self._say(f"error: {error}")
                good = False
            self._rows.append((part.title, time.monotonic() - started, "ok" if good else "FAILED"))
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
        """At once where the disk has room for both: a compiler wants processors, an image the network and the disk."""
        packages.ensure(packages.E2E, self._say)
        own = not os.environ.get("KUBECONFIG")
        together = _free() >= images.NEEDED + GO_CACHE
        with ThreadPoolExecutor(max_workers=2 if together else 1) as pool:
            running = [pool.submit(binaries.build, binaries.SETS["e2e"], self._say)]
            if own:
                running.append(pool.submit(images.Builder(self._say).build))
            for each in running:
                each.result()
        return True

    def _integration(self) -> bool:
        """One retry of what failed, alone on the machine; never silently."""
        if self._pytest("-n", "2", "--dist", "loadfile", "-m", "cluster", "tests/integration") == 0:
            return True
        self._say(f"{LOUD}\ntest-cluster: INTEGRATION TESTS FAILED. What failed runs once more, by itself.\n{LOUD}")
        self._rows.append(("integration, first try", 0.0, "FAILED, RETRIED"))
        return self._pytest("-m", "cluster", "--last-failed", "tests/integration") == 0

    def _end_to_end(self) -> bool:
        """One retry of what failed, from a clean cluster; never silently. No test begins that might not end in time."""
        report = ROOT / "build" / "end-to-end.xml"
        started, limit = time.monotonic(), self._limit()
        if self._tests_of_cluster(limit, "--junit-xml", str(report)):
            return True
        took = time.monotonic() - started
        if limit is not None and took >= limit and (passed := all_passed(report)):
            self._say(
                f"{LOUD}\ntest-cluster: LEFT OUT: the end-to-end tests after the first {passed}, all of which passed. "
                f"There was no more time. `make test-cluster` runs everything.\n{LOUD}"
            )
            self._rows.append((f"end to end, after the first {passed} tests", 0.0, "LEFT OUT, NO TIME"))
            return True
        if os.environ.get("KUBECONFIG"):
            return False  # somebody's own cluster: not ours to clean
        self._say(
            f"{LOUD}\ntest-cluster: END-TO-END TESTS FAILED. What failed runs once more, from a clean cluster.\n{LOUD}"
        )
        self._rows.append(("end to end, first try", took, "FAILED, RETRIED"))
        Cluster(state=STATE, say=self._say).stop(keep_images=True)
        return self._tests_of_cluster(self._limit(), "--last-failed")

    def _limit(self) -> float | None:
        """Seconds after which no further end-to-end test may begin."""
        if self._minutes is None:
            return None
        return max(60.0, 60 * (self._minutes - self._spent() - LAST_MINUTES))

    def _tests_of_cluster(self, limit: float | None, *arguments: str) -> bool:
        until = () if limit is None else ("--session-timeout", f"{limit:.0f}")
        return self._pytest("-m", "e2e", "--timeout", "1200", *until, *arguments, "tests/e2e") == 0

    def _pytest(self, *arguments: str) -> int:
        environment = {**os.environ, "REWARM_REQUIRE_CLUSTER": "1", "OMP_NUM_THREADS": "1"}
        command: Sequence[str] = [sys.executable, "-m", "pytest", "--durations", "10", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


def _free() -> int:
    """Bytes of disk free where programs and images are kept."""
    folder = binaries.tools_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free


def all_passed(report: Path) -> int:
    """How many tests passed by pytest's JUnit report; 0 where one did not, or there is no report."""
    if not report.exists():
        return 0
    suite = ElementTree.parse(report).getroot().find("testsuite")
    if suite is None or suite.get("failures") != "0" or suite.get("errors") != "0":
        return 0
    return int(suite.get("tests", "0")) - int(suite.get("skipped", "0"))
