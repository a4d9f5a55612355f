"""Runs on this machine, behind the words of the client: each is a folder, trained by a process that outlives this one.

    submit ──> runs/NAME/submitted.json ──> python -m rewarm_cli.local_backend runs/NAME ──> rewarm_trainer
                                            (holds runs/NAME/process.lock while it lives)

Decides nothing about training; what a folder says of its run is read by `local_state.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewarm_api.errors import DependencyError, ManifestError, MissingInputError, Problem
from rewarm_cli import local_state
from rewarm_cli.cluster_errors import meant
from rewarm_cli.logs import Selection
from rewarm_cli.records import LogLine, Run, RunEvent
from rewarm_cli.watching import DeadlineError

# Files tell nobody that they change: they are looked at this often.
_LOOK_SECONDS = 0.3


class Local:
    """Runs below `folder`, one at a time or several, each with `processes` training processes."""

    def __init__(self, folder: str | Path = "runs", *, processes: int = 1) -> None:
        self.folder = Path(folder)
        self._processes = processes

    @property
    def local(self) -> bool:
        return True

    def submit(self, document: Mapping[str, Any], folder: Path, *, dry_run: bool = False) -> Run:
        """Start, or resume, the run in a process of its own. `folder`: what relative paths are relative to."""
        name = str(document["metadata"]["name"])
        place = self.folder / name
        if dry_run:
            return Run(name=name, namespace="", uid="", spec=dict(document["spec"]), action="created")
        if local_state.alive(place):
            if (local_state.submitted(place) or {}).get("document") == dict(document):
                return self.get(name).model_copy(update={"action": "unchanged"})
            raise ManifestError(
                Problem("metadata.name", f"{name}, which is running", "a name of its own", "suspend it, or use --name")
            )
        known = place.joinpath("snapshot.json").exists()
        place.mkdir(parents=True, exist_ok=True)
        place.joinpath("deleted").unlink(missing_ok=True)
        self._start(place, {"document": dict(document), "root": str(folder), "processes": self._processes})
        return self.get(name).model_copy(update={"action": "configured" if known else "created"})

    def _start(self, place: Path, order: Mapping[str, Any]) -> None:
        """A new process with this order; it holds the lock that this one hands over."""
        outputs = place / "output"
        outputs.mkdir(exist_ok=True)
        number = 1 + len(list(outputs.glob("*.log")))
        lock = os.open(place / "process.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise DependencyError(f"{place}: another process has just started this run; look again") from None
        now = local_state.rfc3339(time.time())
        first = (local_state.submitted(place) or {}).get("created") or now
        with open(outputs / f"{number}.log", "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "rewarm_cli.local_backend", str(place)],
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                pass_fds=(lock,), start_new_session=True,
            )  # fmt: skip
        told = {**order, "created": first, "started": now, "pid": process.pid, "suspended": False}
        local_state.write(place, told)
        assert process.stdin is not None
        # It begins only once its order is written.
        process.stdin.close()
        os.close(lock)

    def list(self, *, all_namespaces: bool = False, selector: str = "") -> list[Run]:
        """Every run below the folder. There are no namespaces and no labels here."""
        names = sorted(path.name for path in self.folder.glob("*") if local_state.is_run(path))
        return [local_state.run_of_folder(self.folder / name) for name in names]

    def get(self, name: str) -> Run:
        place = self.folder / name
        if not local_state.is_run(place):
            names = [run.name for run in self.list()]
            hint = meant(name, names) or "submit it first"
            raise MissingInputError(f"run {name}: no such run in {self.folder}; {hint}")
        return local_state.run_of_folder(place)

    def watch(self, name: str, *, timeout: float | None = None) -> Iterator[Run | None]:
        """As the folder changes. Raises DeadlineError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        before = self.get(name)
        yield before
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineError
            time.sleep(_LOOK_SECONDS)
            if not local_state.is_run(self.folder / name):
                yield None
                return
            now = local_state.run_of_folder(self.folder / name)
            if now != before:
                before = now
                yield now

    def logs(self, name: str, selection: Selection, *, follow: bool, tail: int | None) -> Iterator[LogLine]:
        """What each start of the run wrote: start n is attempt n, and there is one machine, rank 0."""
        place, told = self.folder / name, dict[int, int]()
        self.get(name)
        if selection.role not in (None, "trainer") or selection.rank not in (None, 0):
            return
        while True:
            # Looked at before the files: what was written last is read before the end is believed.
            running = follow and local_state.alive(place)
            for number, path in local_state.outputs(place):
                if selection.attempt in (None, number):
                    yield from local_state.new_lines(path, number, told, tail, whole=not running)
            if not running:
                return
            time.sleep(_LOOK_SECONDS)

    def events(self, name: str, *, follow: bool = False) -> Iterator[RunEvent]:
        told = 0
        while True:
            run = self.get(name)
            running = follow and local_state.alive(self.folder / name)
            found = local_state.events(self.folder / name, run)
            yield from found[told:]
            told = len(found)
            if not running:
                return
            time.sleep(_LOOK_SECONDS)

    def suspend(self, name: str) -> Run:
        """Ask the process to commit a checkpoint and end."""
        self.get(name)
        place = self.folder / name
        if local_state.alive(place):
            local_state.write(place, {**(local_state.submitted(place) or {}), "suspended": True})
            if process := local_state.process_of(place):
                os.kill(process, signal.SIGTERM)
        return self.get(name)

    def resume(self, name: str) -> Run:
        """Start it again from its newest checkpoint, with the manifest of its folder."""
        run, place = self.get(name), self.folder / name
        if run.finished or local_state.alive(place):
            return run
        order = local_state.order_of(place)
        self._start(place, {"processes": self._processes, **order})
        return self.get(name)

    def promote(self, name: str, version: str = "") -> Run:
        """Move the alias in the run's MLflow at once: there is no operator here to be asked."""
        run = self.get(name)
        own = run.status.tracking.model_version if run.status.tracking else ""
        local_state.move_alias(self.folder / name, version or own)
        return self.get(name)

    def delete(self, name: str) -> Run:
        """End its process and list it no more; its folder, with every checkpoint, stays."""
        run = self.suspend(name)
        self.folder.joinpath(name, "deleted").touch()
        return run


def main(place: Path) -> int:
    """The process of a run: its order is in the folder; the exit code is the run's."""
    sys.stdin.read()
    order = json.loads(place.joinpath("submitted.json").read_text())
    from rewarm_api.errors import RewarmError
    from rewarm_trainer.run import run_local

    try:
        manifest = Path(order["root"]) / "manifest.yaml"
        return run_local(order["document"], manifest, place, processes=order["processes"])
    except RewarmError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
