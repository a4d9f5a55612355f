"""One training process of a pod: a Worker that tells the operator, stores the run's folder and notes how it ended.

Started by torchrun (pod_agent.py); everything it needs to know is in the environment (pod_settings.py).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch

from rewarm_api.errors import RewarmError
from rewarm_trainer.addresses import checkpoints_uri
from rewarm_trainer.endings import INTERNAL, STOPPED, Ending, write_ending
from rewarm_trainer.exporter import Exporter, ProcessExporter
from rewarm_trainer.pod_settings import Pod
from rewarm_trainer.prepared_run import Run
from rewarm_trainer.progress import Progress
from rewarm_trainer.registration import open_tracker
from rewarm_trainer.reporter import Reporter, Server, moment
from rewarm_trainer.session import Session
from rewarm_trainer.signals import StopRequest, die_with
from rewarm_trainer.state import TrainState
from rewarm_trainer.stored import StoredRun
from rewarm_trainer.surroundings import Surroundings
from rewarm_trainer.told import Told
from rewarm_trainer.tracking import Tracker
from rewarm_trainer.workdir import WorkFolder
from rewarm_trainer.worker import Worker, open_run

_LEAVE_SECONDS = 20.0
_MEETING = timedelta(hours=2)


class InPod(Surroundings):
    """A pod of a run. Rank 0 tells and stores; the first rank of each other node has metrics of its own."""

    def __init__(self, pod: Pod, rank: int, local_rank: int) -> None:
        self._pod, self._rank = pod, rank
        self.owns_tracking = os.environ.get("REWARM_TRACKING_OWNER") != "operator"
        self._told: Told | None = None
        self._reporter: Reporter | None = None
        self._stored: StoredRun | None = None
        self._steps = 0
        self._own: ProcessExporter | None = None
        if rank != 0 and local_rank == 0 and pod.metrics_port is not None:
            self._own = ProcessExporter.serve(pod.metrics_port, pod.world)

    def writer(self) -> dict[str, Any]:
        return {"attempt": self._pod.attempt_number(), "pod": self._pod.name, "podUid": self._pod.pod_uid}

    def attempt_number(self, earlier: int) -> int:
        return self._pod.attempt_number()

    def tracker(self, run: Run) -> Tracker:
        run_id = os.environ.get("REWARM_TRACKING_RUN_ID") or None
        return open_tracker(run.work, run.snapshot, run.pins, owned=self.owns_tracking, run_id=run_id)

    def exporter(self, port: int | None) -> Exporter | None:
        exporter = super().exporter(port)
        if exporter:
            self._own = ProcessExporter.within(exporter, self._pod.world)
        return exporter

    def opened(self, run: Run, guard: Callable[[], None]) -> None:
        self._told = Told(run.plan, run.snapshot.replay.ratio)
        self._stored = StoredRun.of(run.work, checkpoints_uri(run.snapshot), guard)
        self._pod.taken_over.touch()
        self._reporter = Reporter(Server.from_environment(), self._pod.notes, self._told.fields)

    def hears(self, record: dict[str, Any]) -> None:
        if self._own and record.get("event") is None:
            self._own.step(record["tokens_per_second"])
        if self._told and self._reporter:
            with self._never_fails():
                if self._told.record(record, moment()):
                    self._reporter.tell()

    @contextmanager
    def _never_fails(self) -> Iterator[None]:
        """What cannot be told is not worth a run."""
        try:
            yield
        except Exception as error:
            print(f"progress reports: left out ({type(error).__name__}: {error})", file=sys.stderr, flush=True)

    def resumed(self, state: TrainState) -> None:
        if self._told:
            with self._never_fails():
                self._told.resumed(state.evaluations)

    def store(self) -> None:
        if self._stored:
            self._stored.save()

    def now(self, activity: str) -> None:
        if self._reporter:
            self._reporter.now(activity)

    def during(self, activity: str) -> AbstractContextManager[None]:
        return self._reporter.during(activity) if self._reporter else nullcontext()

    def alive(self) -> None:
        if self._reporter:
            self._reporter.alive()

    def stepped(self) -> None:
        self._steps += 1
        # The first step compiles.
        if self._steps == 2:
            self.now("Training")
        self.alive()

    def ended(self, report: dict[str, Any]) -> None:
        if not (self._told and self._reporter and self._stored):
            return
        with self._never_fails():
            self._told.report(report)
        try:
            self._stored.save()
        finally:
            self._reporter.close()

    def meet(self, session: Session) -> None:
        """By the agents' store and not by a collective, which may not wait long enough for rank 0's last errands."""
        if session.world == 1:
            return
        store = torch.distributed.distributed_c10d._get_default_store()
        if store.add("rewarm/done", 1) == session.world:
            store.set("rewarm/all-done", "1")
        store.wait(["rewarm/all-done"], _MEETING)

    def linger(self, asked_to_stop: Callable[[], bool]) -> None:
        end = time.monotonic() + self._pod.linger_seconds
        while self._pod.metrics_port is not None and time.monotonic() < end and not asked_to_stop():
            time.sleep(0.2)


def lost_a_peer(error: BaseException) -> bool:
    """Whether this is what a collective says when another process has gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def leave_in_time(stop: StopRequest, leave: Callable[[], None], seconds: float = _LEAVE_SECONDS) -> None:
    """After a SIGTERM before training there is nothing to commit: `leave`, also when this thread hangs in a library.

    A Python handler waits for the interpreter; the wake-up descriptor does not.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch() -> None:
        while signal.SIGTERM not in os.read(read, 64):
            continue
        time.sleep(seconds)
        if not stop.in_training:
            leave()

    threading.Thread(target=watch, name="rewarm-leave", daemon=True).start()


def main() -> int:
    die_with(int(os.environ["REWARM_AGENT_PID"]))
    pod = Pod.from_environment()
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    who = f"rank-{rank}"
    stop = StopRequest()
    stop.install()

    def leave() -> None:
        write_ending(pod.notes, Ending(who, STOPPED, "stopped before training began"))
        os._exit(STOPPED)

    leave_in_time(stop, leave, min(_LEAVE_SECONDS, pod.shutdown_seconds / 2))
    progress = Progress.create(sys.stderr) if rank == 0 else Progress()
    ending = Ending(who, INTERNAL)
    try:
        run = open_run(WorkFolder(pod.work), pod.cache)
        run = replace(run, snapshot=pod.as_asked_now(run.snapshot))
        with progress:
            report = Worker(run, stop, progress, pod.metrics_port, InPod(pod, rank, local_rank)).run()
            if report:
                progress.finish(report)
        ending = Ending(who, 0)
    except RewarmError as error:
        ending = Ending(who, error.exit_code, str(error))
    except Exception as error:
        victim = pod.world > 1 and lost_a_peer(error)
        first = (str(error).strip().splitlines() or [""])[0][:300]
        what = "another process of this attempt went away" if victim else "internal error"
        ending = Ending(who, INTERNAL, f"{what} ({type(error).__name__}: {first})", victim)
        if not victim:
            traceback.print_exc()
    write_ending(pod.notes, ending)
    return ending.code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Other threads of other ranks' collectives must not keep a finished process alive.
    os._exit(code)
