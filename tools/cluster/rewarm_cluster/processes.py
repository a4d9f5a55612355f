"""Starting, finding again and ending processes, each with a log and a pid file that tells it from a later namesake."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .errors import ClusterError

PORTS = range(20_000, 30_000)


class Processes:
    """The processes of one state folder: `<state>/logs/NAME.log` and `<state>/pids/NAME`."""

    def __init__(self, state: Path, *, detached: bool) -> None:
        """`detached`: they outlive this one; otherwise they end with it, even when it is killed."""
        self.logs, self.pids, self.detached = state / "logs", state / "pids", detached
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """Start `command` under `name`; `prefix` goes before it (nsenter)."""
        if self.running(name):
            raise ClusterError(f"{name} is already running (pid {self.pid(name)})")
        for folder in (self.logs, self.pids):
            folder.mkdir(parents=True, exist_ok=True)
        full = [*prefix, *command]
        # Only the main thread lives as long as the process: the signal comes at the end of the thread that started it.
        if not self.detached and threading.current_thread() is threading.main_thread() and shutil.which("setpriv"):
            full = ["setpriv", "--pdeathsig", "KILL", *full]
        with (self.logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                full,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment} if environment else None,
            )
        self._children[name] = child
        (self.pids / name).write_text(f"{child.pid} {_birth(child.pid)}\n")

    def pid(self, name: str) -> int | None:
        """The process started under this name, while it is the same one and runs."""
        try:
            pid, birth = (self.pids / name).read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _birth(int(pid)) == birth else None

    def running(self, name: str) -> bool:
        child = self._children.get(name)
        return child.poll() is None if child else self.pid(name) is not None

    def names(self) -> list[str]:
        return sorted(path.name for path in self.pids.iterdir()) if self.pids.is_dir() else []

    def stop(self, name: str, *, grace_s: float = 5, kill: bool = False) -> None:
        """End one; with SIGTERM, then SIGKILL after the grace. Nothing happens when it has ended already."""
        pid = self.pid(name)
        if pid is not None:
            _send(pid, signal.SIGKILL if kill else signal.SIGTERM)
            if not self._ended(name, pid, grace_s):
                _send(pid, signal.SIGKILL)
                if not self._ended(name, pid, 10):
                    raise ClusterError(f"{name} (pid {pid}) does not end, not even by SIGKILL")
        self._children.pop(name, None)
        (self.pids / name).unlink(missing_ok=True)

    def _ended(self, name: str, pid: int, within_s: float) -> bool:
        child = self._children.get(name)
        if child is not None:
            try:
                child.wait(within_s)
            except subprocess.TimeoutExpired:
                return False
            return True
        return until(lambda: _birth(pid) is None, within_s)

    def wait_ready(self, name: str, probe: Callable[[], bool], within_s: float = 60) -> None:
        """Wait until `probe` is true; a process that ends before is an error with the end of its log."""
        give_up = time.monotonic() + within_s
        while not probe():
            if not self.running(name):
                raise ClusterError(f"{name} ended while it was starting; {self.log_tail(name)}")
            if time.monotonic() > give_up:
                raise ClusterError(f"{name} is not ready after {within_s:.0f} s; {self.log_tail(name)}")
            time.sleep(0.05)

    def log_tail(self, name: str, lines: int = 8) -> str:
        path = self.logs / f"{name}.log"
        text = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
        return f"the end of {path}:\n  " + "\n  ".join(text)


def until(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether the condition came true in time. For states of the operating system that send no event."""
    give_up = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports of an address that are free now, below those that systems give to connections (32768 on Linux): of these, a
    busy machine might take one in the next moment."""
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError):
            socket.create_server((address, port)).close()
            ports.append(port)
        if len(ports) == count:
            break
    return ports


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Whether something takes connections there."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _birth(pid: int) -> str | None:
    """The kernel's start time of a process: with the pid it names one process for good. None: gone, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
