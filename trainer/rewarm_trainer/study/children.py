"""The child processes of a study: at most so many at a time, stopped together, each going on where it was stopped.

The first run of a model goes ahead alone until it has prepared the corpora and scored the baseline: its siblings find
both in the cache.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType

from rewarm_api.errors import Preempted, RewarmError
from rewarm_api.study_runs import ChildRun
from rewarm_trainer.finish import read_report
from rewarm_trainer.runlog import read_records
from rewarm_trainer.study.child import context, work
from rewarm_trainer.study.folder import StudyFolder

_LOOK_SECONDS = 1.0
_STOPPED = 143


class ChildFailedError(RewarmError):
    """A run of the study failed; the study ends with its exit code."""

    cause = "Unknown"

    def __init__(self, code: int, message: str) -> None:
        self.exit_code = code if code > 0 else 70
        super().__init__(message)


def is_finished(folder: StudyFolder, child: ChildRun) -> bool:
    """Whether the run is trained and judged."""
    report = read_report(folder.work(child).report)
    return report is not None and report.get("outcome") == "Succeeded"


class Children:
    """Runs every unfinished child of a study."""

    def __init__(
        self,
        folder: StudyFolder,
        manifest: Path,
        children: Sequence[ChildRun],
        parallelism: int,
        tell: Callable[[str], None],
    ) -> None:
        self._folder, self._manifest, self._tell = folder, manifest, tell
        self._parallelism = parallelism
        self._total = len(children)
        self._waiting = [child for child in children if not is_finished(folder, child)]
        self._running: dict[int, tuple[ChildRun, ForkServerProcess]] = {}
        self._warm = {child.model for child in children if child not in self._waiting}
        self._failed: ChildFailedError | None = None
        self._asked = False

    def run(self) -> None:
        """Until all are finished. Raises Preempted (143) when asked to stop, ChildFailedError when a run failed: no
        other is started then, and those that train may finish."""
        if not self._waiting:
            return
        done = self._total - len(self._waiting)
        self._tell(f"{self._total} runs, {done} finished, {self._parallelism} at a time")
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with selectors.DefaultSelector() as ended:
                self._loop(ended)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for _, process in self._running.values():
                process.kill()
                process.join()
        if self._asked:
            raise Preempted("stopped; every run keeps its last checkpoint: start the same command again to go on")
        if self._failed:
            raise self._failed

    def _loop(self, ended: selectors.BaseSelector) -> None:
        while self._running or (self._waiting and not self._asked and not self._failed):
            while child := self._next():
                descriptor = self._start(child)
                ended.register(descriptor, selectors.EVENT_READ)
            for key, _ in ended.select(_LOOK_SECONDS):
                ended.unregister(key.fileobj)
                self._end(int(key.fd))

    def _next(self) -> ChildRun | None:
        """The next run that may start now."""
        if self._asked or self._failed or len(self._running) >= self._parallelism:
            return None
        leading = {child.model: child for child, _ in self._running.values()}
        for child in self._waiting:
            leader = leading.get(child.model)
            if child.model in self._warm or leader is None or self._is_warm(leader):
                self._waiting.remove(child)
                return child
        return None

    def _is_warm(self, leader: ChildRun) -> bool:
        """Whether a run has prepared its corpora and scored its baseline."""
        log = self._folder.work(leader).log
        if log.exists() and any(record.get("event") == "evaluation" for record in read_records(log)):
            self._warm.add(leader.model)
        return leader.model in self._warm

    def _start(self, child: ChildRun) -> int:
        """A process for the run; returns the descriptor that becomes readable when it ends."""
        log = self._folder.log(child)
        log.parent.mkdir(parents=True, exist_ok=True)
        processes = context(max(1, (os.cpu_count() or 1) // self._parallelism))
        places = (self._folder.document(child), self._manifest, self._folder.work(child).root, log)
        process = processes.Process(target=work, args=places, name=child.label)
        process.start()
        self._running[process.sentinel] = (child, process)
        self._tell(f"{child.label}: started")
        return process.sentinel

    def _end(self, descriptor: int) -> None:
        child, process = self._running.pop(descriptor)
        process.join()
        code = process.exitcode
        assert code is not None, "the sentinel says that it ended"
        if code == 0:
            self._tell(f"{child.label}: finished")
        elif self._asked or code == _STOPPED:
            self._asked = True
            self._tell(f"{child.label}: stopped")
        else:
            reason = last_line(self._folder.log(child))
            self._tell(f"{child.label}: failed with {code}: {reason}")
            words = f"run {child.label} of the study failed: {reason}; its log is {self._folder.log(child)}"
            self._failed = self._failed or ChildFailedError(code, words)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        second, self._asked = self._asked, True
        for _, process in self._running.values():
            if second and number == signal.SIGINT:
                process.kill()
            else:
                process.terminate()


def last_line(path: Path) -> str:
    """The last `error:` line of a log, else its last line."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1][:500]
