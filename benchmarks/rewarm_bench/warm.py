"""Real `rewarm` processes without the price of their imports.

    Warm (a handle)  --request, its pipes-->  parent that has imported everything  --fork-->  one process per command
                     <----pid, then status--

Each command is a process of its own that real signals reach; only `import torch` and its like happened before. What is
read from the environment during imports is the parent's, so it is started with the environment of its commands.
"""

from __future__ import annotations

import atexit
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

MODULES = (
    "rewarm_cli.main",
    "rewarm_trainer.worker",
    "rewarm_trainer.corpus.prepare",
    "rewarm_trainer.charts",
    "transformers.models.llama.modeling_llama",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "scipy.stats",
)
_LENGTH = 4


class WarmProcess:
    """A command that runs; the parts of `subprocess.Popen` that people use."""

    def __init__(self, pid: int, args: Sequence[str], channel: socket.socket, out: IO[str], err: IO[str]) -> None:
        self.pid, self.args = pid, list(args)
        self.stdout, self.stderr = out, err
        self.returncode: int | None = None
        self.cpu_seconds = 0.0
        self._channel = channel

    def poll(self) -> int | None:
        """The exit code, or None while it runs; minus the signal that ended it."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._channel], [], [], timeout)[0]:
            answer = self._channel.recv(64)
            self._channel.close()
            if not answer:
                raise RuntimeError("the warm parent of this process is gone")
            status, used = answer.split()
            self.returncode, self.cpu_seconds = os.waitstatus_to_exitcode(int(status)), float(used)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Everything that it prints from now to its end."""
        texts = ["", ""]

        def read(place: int, stream: IO[str]) -> None:
            texts[place] = stream.read()

        readers = [
            threading.Thread(target=read, args=pair, daemon=True) for pair in enumerate((self.stdout, self.stderr))
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Warm:
    """The warm parent, started with the first command and ended with this process."""

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str] = MODULES) -> None:
        self._environment, self._modules = dict(environment), tuple(modules)
        self._parent: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def start(
        self,
        arguments: Sequence[str],
        cwd: Path,
        module: str = "rewarm_cli",
        environment: Mapping[str, str] | None = None,
    ) -> WarmProcess:
        """`python -m MODULE ARGUMENTS` in a folder, its output readable.

        `environment`: more variables, of those that are read while a command runs; imports have read theirs already.
        """
        out, child_out = os.pipe()
        err, child_err = os.pipe()
        pid, channel = self._ask(arguments, cwd, module, child_out, child_err, environment)
        streams = (os.fdopen(each, encoding="utf-8", errors="replace") for each in (out, err))
        return WarmProcess(pid, [module, *arguments], channel, *streams)

    def run(self, arguments: Sequence[str], cwd: Path, log: Path, module: str = "rewarm_cli") -> tuple[int, float]:
        """The same to its end, everything it says appended to `log`: (exit code, its processor seconds)."""
        with open(log, "ab") as file:
            copies = os.dup(file.fileno()), os.dup(file.fileno())
            pid, channel = self._ask(arguments, cwd, module, *copies)
        nothing = io.StringIO(), io.StringIO()
        process = WarmProcess(pid, [module, *arguments], channel, *nothing)
        return process.wait(), process.cpu_seconds

    def _ask(
        self,
        arguments: Sequence[str],
        cwd: Path,
        module: str,
        out: int,
        err: int,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[int, socket.socket]:
        """Have the parent fork; takes `out` and `err`. Returns the process and where its end is told."""
        asked = {
            "module": module,
            "arguments": list(arguments),
            "cwd": str(cwd),
            "environment": dict(environment or {}),
        }
        request = json.dumps(asked).encode()
        ours, theirs = socket.socketpair()
        try:
            with self._lock:
                requests = self._requests()
                head = len(request).to_bytes(_LENGTH, "big")
                socket.send_fds(requests, [head], [out, err, theirs.fileno()])
                requests.sendall(request)
        finally:
            theirs.close()
            os.close(out)
            os.close(err)
        return int(ours.recv(64)), ours

    def _requests(self) -> socket.socket:
        if self._socket is None:
            ours, theirs = socket.socketpair()
            command = [sys.executable, "-m", "rewarm_bench.warm", str(theirs.fileno()), *self._modules]
            place = str(Path(__file__).parents[1])
            path = os.pathsep.join([place, *self._environment.get("PYTHONPATH", "").split(os.pathsep)])
            environment = {**self._environment, "PYTHONPATH": path}
            self._parent = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
            theirs.close()
            self._socket = ours
            atexit.register(self.close)
        return self._socket

    def close(self) -> None:
        """End the parent; commands that still run go on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._parent is not None:
            self._parent.wait()
            self._parent = None


def serve(requests: socket.socket, modules: Sequence[str]) -> None:
    """The warm parent: import, then fork for each request until the other end closes."""
    for module in modules:
        importlib.import_module(module)
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    assert not others, f"threads do not survive a fork: {others}"
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    running: dict[int, socket.socket] = {}
    while True:
        both: list[socket.socket | int] = [requests, wake_read]
        ready, _, _ = select.select(both, [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap(running)
        if requests in ready and not _take(requests, running, (wake_read, wake_write)):
            return


def _reap(running: dict[int, socket.socket]) -> None:
    for pid in list(running):
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            with running.pop(pid) as channel, suppress(BrokenPipeError):
                channel.send(f"{status} {used.ru_utime + used.ru_stime:.3f}".encode())


def _take(requests: socket.socket, running: dict[int, socket.socket], wake: tuple[int, int]) -> bool:
    """Fork for one request; False when there will be no more."""
    head, descriptors, _, _ = socket.recv_fds(requests, _LENGTH, 3)
    if not head:
        return False
    length, body = int.from_bytes(head, "big"), b""
    while len(body) < length:
        body += requests.recv(length - len(body))
    out, err, answer = descriptors
    channel = socket.socket(fileno=answer)
    pid = os.fork()
    if pid == 0:
        inherited = [requests.fileno(), channel.fileno(), *wake, *(other.fileno() for other in running.values())]
        _become(json.loads(body), out, err, inherited)
    os.close(out)
    os.close(err)
    with suppress(BrokenPipeError):  # who asked is gone; the command goes on, and is reaped
        channel.send(str(pid).encode())
    running[pid] = channel
    return True


def _become(request: dict[str, Any], out: int, err: int, inherited: Sequence[int]) -> NoReturn:
    """Turn a fork into the command; whatever it raises ends it as it would end a fresh interpreter."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    for place, descriptor in enumerate((null, out, err)):
        os.dup2(descriptor, place)
    for descriptor in (null, out, err, *inherited):
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
