"""The launcher wrapper: process 1 of a training pod. Imports no torch, trains nothing, and has the last word.

    own folder, pins, shards -> work folder -> wait for rank 0's name -> torchrun -> exit code of the first own failure

After a SIGTERM it exits 143 whatever its children return. A pod that failed only because another one did waits a
moment, so that the cause is the first container to end.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rewarm_api.errors import DependencyError, MissingInputError
from rewarm_api.pins import Pins
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.addresses import cache_uri
from rewarm_trainer.base import locate
from rewarm_trainer.corpus.prepare import shared_cache
from rewarm_trainer.endings import STOPPED, Ending, cause_of, read_endings, write_ending
from rewarm_trainer.finish import read_report
from rewarm_trainer.pod_prepare import Telling, open_work, pinned_at, read_pins, stored_pins, write_pins
from rewarm_trainer.pod_settings import Pod
from rewarm_trainer.processors import processors
from rewarm_trainer.progress import Progress
from rewarm_trainer.reporter import Reporter, Server
from rewarm_trainer.run import is_prepared, prepare_run, prepared_folders
from rewarm_trainer.told import Told
from rewarm_trainer.workdir import WorkFolder, read_snapshot

NAME_SECONDS = 900.0
MEETING_SECONDS = 3600
VICTIM_SECONDS = 5.0
"""How much later than a cause its victims end: times in a pod's status are whole seconds."""
STRAGGLER_SECONDS = 30.0


def say(text: str) -> None:
    """A line for the pod's log."""
    print(f"rewarm: {text}", file=sys.stderr, flush=True)


def ready(pod: Pod, reporter: Reporter) -> WorkFolder:
    """Everything that the workers of this node read from disk, brought here."""
    work, snapshot = open_work(pod)
    pins = read_pins(work) or stored_pins(pinned_at(pod, snapshot))
    if pins is None:
        raise MissingInputError(
            f"{pinned_at(pod, snapshot).uri('pins.json')}: no pins of this run; its preparation has to finish first"
        )
    write_pins(work, pins)
    fetch_shards(pod, work, snapshot, pins, reporter)
    # One download for all processes of this node.
    locate(snapshot, work.root, pod.cache, pins.base_model)
    return work


def is_finished(pod: Pod, work: WorkFolder) -> bool:
    """Whether an earlier attempt trained and judged this run to its end; then its last words are said again."""
    report = read_report(work.report)
    if report is None or report["outcome"] != "Succeeded":
        return False
    say("this run is finished; its report stands")
    if pod.node == 0:
        snapshot, pins = read_snapshot(work), read_pins(work)
        told = Told(pins.plan if pins else None, snapshot.replay.ratio)
        told.report(report)
        pod.taken_over.touch()
        last = Reporter(Server.from_environment(), pod.notes, told.fields, activity="Finishing")
        last.close()
    return True


def fetch_shards(pod: Pod, work: WorkFolder, snapshot: Snapshot, pins: Pins, reporter: Reporter) -> None:
    """The prepared corpora by their pins; what the shared cache lost is made again from the text."""
    uri = cache_uri(snapshot)
    mirror = shared_cache(pod.cache, uri)
    folders = prepared_folders(pins, pod.cache)
    for number, folder in enumerate(folders, start=1):
        if not folder.is_dir():
            say(f"fetching prepared corpus {number} of {len(folders)} from {uri}")
            mirror.fetch(folder)
            reporter.alive()
    if not is_prepared(pins, pod.cache) or not work.tokenizer.is_dir():
        say(f"warning: {uri} does not hold all that was prepared; preparing it here, while processors wait")
        prepare_run(work, snapshot, work.root, pod.cache, Telling(Progress.create(sys.stderr), reporter), uri)


def wait_for_name(pod: Pod, reporter: Reporter) -> None:
    """Until rank 0's DNS name is known: static rendezvous keeps retrying, but only slowly."""
    began, told = time.monotonic(), 0.0
    while True:
        try:
            socket.getaddrinfo(pod.master_address, pod.master_port)
            return
        except OSError as error:
            waited = time.monotonic() - began
            if waited > NAME_SECONDS:
                raise DependencyError(
                    f"{pod.master_address}: this name is still unknown after {waited:.0f} s ({error}); check that the "
                    "cluster's DNS works and that the pod of index 0 was scheduled"
                ) from error
            if waited >= told:
                say(f"waiting for {pod.master_address} to get an address ({waited:.0f} s)")
                told = waited + 10.0
            reporter.alive()
            time.sleep(1.0)


class Wrapper:
    """One torchrun and everything below it, watched by the process that the container is."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod
        self._asked_at: float | None = None
        self._agent: int = -1
        self._status: int | None = None
        self._all_started = False
        self._signals, write = os.pipe()
        os.set_blocking(write, False)
        os.set_blocking(self._signals, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        adopt_orphans()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            if self._agent > 0 and self._status is None:
                os.kill(self._agent, signal.SIGTERM)

    def run(self, command: list[str], environment: dict[str, str]) -> Ending:
        """Start, watch, clean up; returns how this pod ends."""
        if self._asked_at is None:
            self._agent = subprocess.Popen(command, env=environment, start_new_session=True).pid
            if self._asked_at is not None:
                os.kill(self._agent, signal.SIGTERM)
            self._watch()
        self._end_all()
        return self._ending()

    def _watch(self) -> None:
        failing_since: float | None = None
        while self._status is None:
            select.select([self._signals], [], [], 0.5)
            with suppress(BlockingIOError):
                os.read(self._signals, 4096)
            self._reap()
            now = time.monotonic()
            if self._asked_at is not None and now > self._asked_at + self._pod.shutdown_seconds + 10.0:
                say("the workers did not stop in time and are ended")
                return
            # The kernel's list of children may leave one out while another ends: only what lasts is a failure.
            failing_since = (now if failing_since is None else failing_since) if self._has_failed() else None
            if failing_since is not None and self._asked_at is None and now > failing_since + STRAGGLER_SECONDS:
                say("the other workers of this node hang after a failure and are ended")
                if not any(ending.code for ending in read_endings(self._pod.notes)):
                    write_ending(self._pod.notes, Ending("pod", 137, "a worker went away without a word"))
                return

    def _has_failed(self) -> bool:
        """Whether a worker ended badly: by its own word, or gone without one while torchrun waits for the others."""
        endings = read_endings(self._pod.notes)
        workers = sum(is_worker(number) for number in children_of(self._agent, deep=False))
        self._all_started |= workers >= self._pod.processes
        wordless = self._all_started and workers + len(endings) < self._pod.processes
        return wordless or any(ending.code for ending in endings)

    def _reap(self) -> None:
        """Take the status of whatever ended; orphans come to process 1."""
        with suppress(ChildProcessError):
            while True:
                number, status = os.waitpid(-1, os.WNOHANG)
                if number == 0:
                    return
                if number == self._agent:
                    self._status = os.waitstatus_to_exitcode(status)

    def _end_all(self) -> None:
        """Leave no process behind."""
        end = time.monotonic() + 10.0
        while (rest := children_of(os.getpid())) and time.monotonic() < end:
            for number in rest:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            select.select([self._signals], [], [], 0.2)
            self._reap()
        self._reap()

    def _ending(self) -> Ending:
        cause = cause_of(read_endings(self._pod.notes), -signal.SIGKILL if self._status is None else self._status)
        if self._asked_at is not None:
            message = cause.message if cause.code == STOPPED else "stopped as asked"
            return Ending("pod", STOPPED, message)
        if cause.victim and self._pod.nodes > 1:
            say(f"{cause.message}; leaving the last word to the pod where it began")
            self._wait_as_victim()
        return cause

    def _wait_as_victim(self) -> None:
        end = time.monotonic() + VICTIM_SECONDS
        while self._asked_at is None and (left := end - time.monotonic()) > 0:
            select.select([self._signals], [], [], left)
            with suppress(BlockingIOError):
                os.read(self._signals, 4096)


def children_of(number: int, deep: bool = True) -> list[int]:
    """The processes below one; not `deep`: only its own children."""
    found: list[int] = []
    for path in Path(f"/proc/{number}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *(children_of(child) if deep else [])]
    return found


def is_worker(number: int) -> bool:
    """Whether this process is a training process that lives. (What a dead one was called, nobody knows.) Until it runs
    a program of its own a child is called as torchrun is, which names the worker's module too."""
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False
    return b"rewarm_trainer.pod_worker" in words and b"rewarm_trainer.pod_agent" not in words


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent died, as process 1 of a container is anyway."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def command_of(pod: Pod) -> list[str]:
    """torchrun with a static rendezvous at rank 0's name."""
    return [
        sys.executable, "-m", "rewarm_trainer.pod_agent", str(pod.notes),
        "--nnodes", str(pod.nodes), "--node-rank", str(pod.node), "--nproc-per-node", str(pod.processes),
        "--rdzv-backend", "static", "--master-addr", pod.master_address, "--master-port", str(pod.master_port),
        "--rdzv-id", f"{pod.run}-{pod.attempt}", "--rdzv-conf", f"timeout={MEETING_SECONDS}",
        "--max-restarts", "0", "--monitor-interval", "0.2",
        "-m", "rewarm_trainer.pod_worker",
    ]  # fmt: skip


def environment_of(pod: Pod) -> dict[str, str]:
    """What the workers get: ours, and as many threads as this container has processors for each of them."""
    threads = str(max(1, processors() // pod.processes))
    return {"OMP_NUM_THREADS": threads, **os.environ, "REWARM_LAUNCHER_PID": str(os.getpid())}


def train(pod: Pod, reporter: Reporter) -> Ending:
    """Everything of a training pod but its last words."""
    work = ready(pod, reporter)
    work.lock()
    if is_finished(pod, work):
        return Ending("pod", 0)
    wait_for_name(pod, reporter)
    say(f"node {pod.node} of {pod.nodes}: starting {pod.processes} training processes")
    return Wrapper(pod).run(command_of(pod), environment_of(pod))
