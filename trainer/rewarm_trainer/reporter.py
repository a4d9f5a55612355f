"""The heartbeat: rank 0 tells the operator how it goes, every 30 s and at once when something happened.

One thread of its own; a POST that fails is tried again with the next one. Nothing here ever stops or slows training.
What was told last also lies in a small file, which becomes the pod's termination message.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rewarm_api.reported import Report, read_report
from rewarm_api.status import Phase

EVERY_SECONDS = 30.0
LAST = "report.json"
_POST_SECONDS = 10.0
_LONGEST_PAUSE = 120.0
_LEAST_PAUSE = 1.0

# How long an activity may show no sign of life (a batch scored, a step made) before it counts as hung.
DEADLINES = {
    "Preparing": 3600.0,
    "Starting": 3600.0,
    "Compiling": 3600.0,
    "Baseline": 1800.0,
    "Training": 1800.0,
    "Evaluating": 1800.0,
    "Checkpointing": 3600.0,
    "Finishing": 1800.0,
}


def moment(seconds: float | None = None) -> str:
    """RFC 3339 in UTC, of a Unix time or of now."""
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Server:
    """Where reports go, by the three variables that Kubeflow's trainers know."""

    url: str
    authority: str
    token: str

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Server | None:
        """None where reporting is off."""
        url = environment.get("KUBEFLOW_TRAINER_SERVER_URL")
        if not url:
            return None
        names = ("KUBEFLOW_TRAINER_SERVER_CA_CERT", "KUBEFLOW_TRAINER_SERVER_TOKEN")
        return Server(url, *(environment.get(name, "") for name in names))

    def post(self, body: bytes) -> None:
        """One POST on a connection of its own: the operator that answers may be another one than last time."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            # The kubelet renews the token in its file.
            headers["Authorization"] = f"Bearer {Path(self.token).read_text().strip()}"
        context = None
        if self.url.startswith("https://"):
            context = ssl.create_default_context(cafile=self.authority or None)
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=_POST_SECONDS, context=context) as answer:
            answer.read()


class Reporter:
    """Tells one run's story. `fields` gives what is known, by field of Report; it is asked on the reporter's thread."""

    def __init__(
        self,
        server: Server | None,
        folder: Path,
        fields: Callable[[], Mapping[str, Any]] = dict,
        *,
        activity: str = "Starting",
        every_seconds: float = EVERY_SECONDS,
        until: Path | None = None,
    ) -> None:
        """`until`: once this file exists, another process tells the story and this one is silent."""
        self._server, self._folder, self._fields = server, folder, fields
        self._every, self._until = every_seconds, until
        self._activity = activity
        self._alive = time.monotonic()
        self._slowest = 0.0
        self._wake = threading.Condition()
        self._urgent = True
        self._closed = False
        self._problem = ""
        self._thread = threading.Thread(target=self._work, name="rewarm-reporter", daemon=True)
        self._thread.start()

    def alive(self) -> None:
        """A sign of life of the training thread: its activity's time starts anew."""
        now = time.monotonic()
        self._slowest = max(self._slowest, now - self._alive)
        self._alive = now

    def now(self, activity: str) -> None:
        """Something else is being done from here on."""
        if activity != self._activity:
            self._activity = activity
            self.alive()
            self.tell()

    @contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Something else is being done inside the block."""
        before = self._activity
        self.now(activity)
        try:
            yield
        finally:
            self.now(before)

    def tell(self) -> None:
        """Report at once (within a second: several events in a row make one report)."""
        with self._wake:
            self._urgent = True
            self._wake.notify()

    def close(self) -> None:
        """The last report, sent before this returns unless the server stays away."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(_POST_SECONDS + 5.0)

    def report(self) -> Report:
        """Everything as it stands."""
        allowed = max(DEADLINES[self._activity], 20.0 * self._slowest)
        left = self._alive + allowed - time.monotonic()
        deadline = datetime.now(UTC) + timedelta(seconds=left)
        phase = Phase(activity=self._activity, deadline=deadline.strftime("%Y-%m-%dT%H:%M:%SZ"))
        return Report(phase=phase, **self._fields())

    # Everything below runs on the thread.

    def _work(self) -> None:
        pause = 0.0
        while True:
            with self._wake:
                # A server that asked for a pause gets it; several events in a row make one report.
                self._wake.wait_for(lambda: self._closed, pause or _LEAST_PAUSE)
                self._wake.wait_for(lambda: self._closed or self._urgent, 0.0 if pause else self._every)
                closed, self._urgent = self._closed, False
            pause = self._once()
            if closed:
                return

    def _once(self) -> float:
        """Write and send; returns how long the server asked to be left alone, in seconds (0: not)."""
        if self._until and self._until.exists():
            return 0.0
        try:
            report = self.report()
            write_last(self._folder, report)
            if self._server:
                self._server.post(body_of(report))
            self._say("")
        except urllib.error.HTTPError as error:
            self._say(f"the operator answered {error.code}")
            return retry_after(error)
        except Exception as error:  # whatever it is, training goes on
            self._say(f"{type(error).__name__}: {error}")
        return 0.0

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            text = f"not heard ({problem}); training goes on" if problem else "heard again"
            print(f"progress reports: {text}", file=sys.stderr, flush=True)


def retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds that a 503 or 429 asks to wait, within reason; 0 for other answers."""
    if error.code not in (429, 503):
        return 0.0
    try:
        asked = float(error.headers.get("Retry-After") or 5.0)
    except ValueError:
        asked = 5.0
    return min(max(asked, _LEAST_PAUSE), _LONGEST_PAUSE)


def body_of(report: Report) -> bytes:
    """Kubeflow's payload, so that its own controller understands it too, and everything else under `rewarm`."""
    status: dict[str, Any] = {"lastUpdatedTime": datetime.now(UTC).isoformat()}
    metrics: dict[str, Any] = {}
    if report.progress:
        status["progressPercentage"] = report.progress.percent
        if report.progress.eta_seconds is not None:
            status["estimatedRemainingSeconds"] = int(report.progress.eta_seconds)
        metrics["current_step"] = report.progress.step
    if report.learning_rate is not None:
        metrics["learning_rate"] = report.learning_rate
    status["metrics"] = [{"name": name, "value": str(value)} for name, value in metrics.items()]
    return json.dumps({"trainerStatus": status, "rewarm": report.to_json()}).encode()


def write_last(folder: Path, report: Report) -> None:
    temporary = folder / f".{LAST}.{os.getpid()}"
    with suppress(OSError):
        temporary.write_text(json.dumps({"rewarm": report.to_json()}))
        os.replace(temporary, folder / LAST)


def read_last(folder: Path) -> Report | None:
    """What was told last, None when nothing was."""
    try:
        return read_report((folder / LAST).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
