"""Pods without a cluster: the same programs in processes of this machine, each with a home, claims and an environment
as the operator gives them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewarm_world import MANIFEST, World

from rewarm_api.reported import Termination
from rewarm_api.resolve import resolve
from rewarm_api.snapshot import Snapshot
from rewarm_api.validate import validate

NAMESPACE = "team"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class PodRun:
    """One ContinualRun on a cluster of processes. `claims` holds a folder for each claim: data, runs, cache."""

    world: World
    name: str
    snapshot: Snapshot
    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    attempts: int = 0

    @staticmethod
    def make(world: World, name: str, uid: str = "", **changes: Any) -> PodRun:
        """The tiny manifest, its text and checkpoints on claims; `changes` as World.manifest takes them."""
        root = world.root / f"cluster-{name}"
        for claim in ("runs", "cache", "models"):
            (root / "claims" / claim).mkdir(parents=True, exist_ok=True)
        if not (root / "claims" / "data").exists():
            shutil.copytree(world.root / "data", root / "claims" / "data")
        document = json.loads(json.dumps(MANIFEST))
        document["metadata"]["name"] = name
        spec = document["spec"]
        spec["corpus"]["sources"][0]["uri"] = "claim://data/code.jsonl"
        spec["replay"]["sources"][0]["uri"] = "claim://data/general.jsonl"
        spec["checkpoints"]["uri"] = f"claim://runs/{NAMESPACE}/{name}/"
        spec["cache"] = {"uri": "claim://cache/shared/"}
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = spec
            for parent in parents:
                place = place.setdefault(parent, {})
            place.pop(last, None) if value is None else place.__setitem__(last, value)
        validation = validate(document, local=False)
        assert not validation.problems, validation.problems
        assert validation.run is not None
        snapshot = resolve(validation.run, uid=uid or f"uid-of-{name}")
        config = root / f"etc-{uid or 'first'}"
        config.mkdir(parents=True, exist_ok=True)
        (config / "snapshot.json").write_text(json.dumps({**snapshot.to_json(), "digest": snapshot.digest}))
        run = PodRun(world, name, snapshot, root)
        run.environment = {"REWARM_CONFIG": str(config), "REWARM_CLAIMS": str(root / "claims")}
        return run

    @property
    def stored(self) -> Path:
        """The run's own folder, where its checkpoints are."""
        return self.root / "claims" / "runs" / NAMESPACE / self.name

    def stored_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.stored / "run" / "log.jsonl").read_text().splitlines()]

    def report(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.stored / "run" / "report.json").read_text())
        return value

    def pod(self, command: str, name: str, **environment: str) -> Pod:
        home = self.root / "pods" / name
        home.mkdir(parents=True)
        given = {
            **self.world.environment,
            **self.environment,
            "REWARM_HOME": str(home),
            "REWARM_RUN": self.name,
            "REWARM_NAMESPACE": NAMESPACE,
            "REWARM_RUN_UID": self.snapshot.uid,
            "REWARM_POD_NAME": name,
            "REWARM_POD_UID": f"uid-{name}",
            "REWARM_TRACKING_OWNER": "operator",
            "REWARM_METRICS_LINGER_SECONDS": "0",
            "REWARM_TERMINATION_LOG": str(home / "termination-log"),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "60",
            **environment,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "rewarm_trainer.pod", command],
            env=given,
            cwd=home,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return Pod(process, home)

    def prepare(self, **environment: str) -> Pod:
        return self.pod("prepare", f"prepare-{len(list((self.root / 'pods').glob('prepare-*')))}", **environment)

    def attempt(self, nodes: int = 1, processes: int = 1, **environment: str) -> list[Pod]:
        """The pods of the next attempt, index 0 first."""
        self.attempts += 1
        (Path(self.environment["REWARM_CONFIG"]) / "attempt.json").write_text(
            json.dumps({"number": self.attempts, "nodes": nodes, "retries": {}, "onForgetting": "Warn"})
        )
        common = {
            "REWARM_ATTEMPT": str(self.attempts),
            "REWARM_NODES": str(nodes),
            "REWARM_PROCESSES_PER_NODE": str(processes),
            "REWARM_MASTER_ADDRESS": "127.0.0.1",
            "REWARM_MASTER_PORT": str(free_port()),
            **environment,
        }
        return [
            self.pod(
                "train",
                f"a{self.attempts}-{index}-{common['REWARM_MASTER_PORT']}",
                **common,
                JOB_COMPLETION_INDEX=str(index),
            )
            for index in range(nodes)
        ]


@dataclass
class Pod:
    """A running pod. `seen` holds the lines of its log that were read."""

    process: subprocess.Popen[str]
    home: Path
    seen: list[str] = field(default_factory=list)

    def until(self, text: str) -> str:
        """Reads its log until a line holds `text`."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.seen.append(line)
            if text in line:
                return line
        raise AssertionError(f"ended with {self.process.wait()} before {text!r}:\n{''.join(self.seen)}")

    def end(self, timeout: float = 180) -> int:
        """Waits for its end; returns its exit code."""
        _, rest = self.process.communicate(timeout=timeout)
        self.seen.append(rest)
        return self.process.returncode

    @property
    def log(self) -> str:
        return "".join(self.seen)

    @property
    def termination(self) -> Termination:
        text = (self.home / "termination-log").read_text()
        assert len(text.encode()) < 4096
        message = Termination.parse(text)
        assert message is not None, text
        return message

    def descendants(self) -> list[int]:
        found, todo = [], [self.process.pid]
        while todo:
            number = todo.pop()
            try:
                tasks = list(Path(f"/proc/{number}/task").iterdir())
                children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
            except OSError:
                continue
            found += children
            todo += children
        return found

    def kill(self) -> None:
        """As a lost node: every process at once, by SIGKILL."""
        for number in [self.process.pid, *self.descendants()]:
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()
