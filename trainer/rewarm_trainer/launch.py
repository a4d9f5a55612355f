"""Several training processes on this machine: started together, stopped together, one exit code.

Each worker dies with the launcher (a death signal from the kernel, and a check at every step). The launcher gives back
the code of the first rank that failed, and 143 after it was asked to stop, whatever the workers return.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType

from rewarm_trainer.signals import die_with_parent

_GRACE_SECONDS = 20.0


def free_port() -> int:
    """A port for the rendezvous on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Launcher:
    """Workers of one run, one per rank."""

    def __init__(self, workdir: Path, cache: Path, processes: int, metrics_port: int | None, lock: int) -> None:
        self._command = [
            sys.executable,
            "-m",
            "rewarm_trainer.worker",
            "--workdir",
            str(workdir),
            "--cache",
            str(cache),
        ]
        if metrics_port is not None:
            self._command += ["--metrics-port", str(metrics_port)]
        self._processes = processes
        self._lock = lock
        self._workers: list[subprocess.Popen[bytes]] = []
        self._asked = False

    def run(self) -> int:
        """Start all, wait for all; when one fails the others are stopped."""
        before = {number: signal.signal(number, self._forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._start()
            code = self._wait()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)
        return 143 if self._asked else code

    def _start(self) -> None:
        threads = max(1, (os.cpu_count() or 1) // self._processes)
        common = {
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(self._processes),
            "LOCAL_WORLD_SIZE": str(self._processes),
            "REWARM_LAUNCHER_PID": str(os.getpid()),
        }
        common.setdefault("OMP_NUM_THREADS", str(threads))
        for rank in range(self._processes):
            self._workers.append(
                subprocess.Popen(
                    self._command,
                    env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    # Its own session: a Ctrl-C of the terminal reaches the launcher alone, which forwards it once.
                    start_new_session=True,
                    pass_fds=(self._lock,),
                    preexec_fn=die_with_parent,
                )
            )

    def _forward(self, number: int, frame: FrameType | None) -> None:
        second, self._asked = self._asked, True
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL if second and number == signal.SIGINT else signal.SIGTERM)

    def _wait(self) -> int:
        """The code of the first worker that failed, 0 when none did."""
        with selectors.DefaultSelector() as ended:
            for worker in self._workers:
                ended.register(os.pidfd_open(worker.pid), selectors.EVENT_READ, worker)
            while ended.get_map():
                for key, _ in ended.select():
                    ended.unregister(key.fileobj)
                    os.close(int(key.fd))
                    code = key.data.wait()
                    if code != 0:
                        for rest in list(ended.get_map().values()):
                            os.close(int(rest.fd))
                        return code if code > 0 else 70
        return 0

    def _end(self) -> None:
        """Leave no worker behind: those of a failed run wait in a collective that will never complete."""
        if any(worker.poll() is None for worker in self._workers):
            for worker in self._workers:
                try:
                    worker.wait(_GRACE_SECONDS if self._asked else 2.0)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()
