"""The cluster of the operator's benchmark: a real control plane, fake nodes by kwok, and an audit log that counts."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from rendered_chart import render, rights

from rewarm_cluster.binaries import find, module_folder
from rewarm_cluster.control_plane import ControlPlane
from rewarm_cluster.processes import free_ports

ROOT = Path(__file__).parents[2]
NAMESPACE = "rewarm"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:rewarm"
RUNS = f"/apis/rewarm.dev/v1alpha1/namespaces/{NAMESPACE}/continualruns"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
NODES = 20
POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, verbs: [create, update, patch, delete, deletecollection]}
- {level: None}
"""


class World:
    """Everything of one benchmark, started and ended together."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.audit = state / "audit.log"
        (state / "policy.yaml").write_text(POLICY)
        flags = [f"--audit-policy-file={state / 'policy.yaml'}", f"--audit-log-path={self.audit}"]
        self.cluster = ControlPlane("jobs", state=state / "control-plane", scheduler=True, apiserver_flags=flags)

    def __enter__(self) -> World:
        self.cluster.__enter__()
        for crd in sorted((ROOT / "crds").glob("*.yaml")):
            self.cluster.apply(crd.read_text())
        while self.cluster.api.call("GET", RUNS)[0] != 200:  # 404, then 429, in the first moments of a new kind
            time.sleep(0.1)
        self.cluster.namespace(NAMESPACE)
        self.cluster.apply([node(number) for number in range(NODES)])
        for number in range(NODES):
            # A new node is tainted until the node-lifecycle controller finds it ready; made-up nodes have none.
            self.cluster.api.call("PATCH", f"/api/v1/nodes/fake-{number}", {"spec": {"taints": None}})
        return self

    def __exit__(self, *error: Any) -> None:
        for name in self.cluster.processes.names():
            if name.startswith(("kwok", "operator", "peer")):
                self.cluster.processes.stop(name, kill=True)
        self.cluster.__exit__(*error)

    def pods_run(self) -> None:
        """From now on pods become ready and end well, by kwok's own fast stages."""
        stages = self.state / "stages.yaml"
        folder = module_folder("kwok", "sigs.k8s.io/kwok") / "kustomize/stage"
        paths = [*(folder / "node/fast").glob("node-*.yaml"), *(folder / "pod/fast").glob("pod-*.yaml")]
        stages.write_text("\n---\n".join(path.read_text() for path in sorted(paths)))
        command = [str(find("kwok")), f"--kubeconfig={self.cluster.kubeconfig}", "--manage-all-nodes=true"]
        self.cluster.processes.start("kwok", [*command, f"--config={stages}"])

    def pods_stand_still(self) -> None:
        self.cluster.processes.stop("kwok", kill=True)

    def create(self, path: str, objects: Iterable[dict[str, Any]]) -> None:
        """All of them, by eight clients."""

        def one(body: dict[str, Any]) -> None:
            status, answer = self.cluster.api.call("POST", path, body)
            if status != 201:
                raise RuntimeError(f"{body['metadata']['name']}: {status} {answer}")

        self.each(objects, one)

    def each(self, things: Iterable[Any], what: Callable[[Any], Any]) -> None:
        """Do it for all of them, eight at a time."""
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(what, things))

    def records(self, user: str, since: int = 0) -> Iterator[tuple[str, str]]:
        """What `user` wrote, in order: verb and resource, and the object's name; from the audit log's byte `since`."""
        with self.audit.open() as file:
            file.seek(since)
            for line in file:
                record = json.loads(line)
                if record["user"]["username"] == user:
                    what = record["objectRef"]
                    path = "/".join(filter(None, (what["resource"], what.get("subresource"))))
                    yield f"{record['verb']} {path}", what.get("name", "")

    def writes_until_job(self, user: str) -> Counter[str]:
        """What was written for each run up to and with its first attempt Job, summed."""
        found: Counter[str] = Counter()
        posted: set[str] = set()
        for what, name in self.records(user):
            run = name.split(".")[0].removesuffix("-prepare").removesuffix("-a1")
            if run not in posted and not what.endswith("leases"):
                found[what] += 1
            if what == "create jobs" and name.endswith("-a1"):
                posted.add(run)
        return found

    def audit_size(self) -> int:
        return self.audit.stat().st_size


def node(number: int) -> dict[str, Any]:
    """A made-up machine that kwok looks after."""
    room = {"cpu": "4000", "memory": "8000Gi", "pods": "4000"}
    metadata = {"name": f"fake-{number}", "labels": {"type": "kwok"}, "annotations": {"kwok.x-k8s.io/node": "fake"}}
    status = {"allocatable": room, "capacity": room, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}


class Watched:
    """Counts what happens to objects of a collection, on a thread of its own; the numbers are the API server's."""

    def __init__(self, world: World, path: str, is_wanted: Callable[[dict[str, Any]], bool], **selection: str) -> None:
        self._world, self._path, self._is_wanted, self._selection = world, path, is_wanted, selection
        self._changed = threading.Condition()
        self.there: set[str] = set()
        self.events = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        for event in self._watch():
            name = event["object"]["metadata"].get("name", "")
            with self._changed:
                self.events += event["type"] in ("ADDED", "MODIFIED", "DELETED")
                if self._is_wanted(event["object"]):
                    self.there.add(name)
                self._changed.notify_all()

    def _watch(self) -> Iterator[dict[str, Any]]:
        yield from self._world.cluster.api.watch(self._path, timeout_s=3600, **self._selection)

    def wait(self, count: int, within_s: float) -> float:
        """Until `count` wanted objects were seen; the moment (monotonic) when that was so."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.there) >= count, within_s):
                raise RuntimeError(f"only {len(self.there)} of {count} in {self._path} after {within_s:.0f} s")
            return time.monotonic()


class Process:
    """A controller under measurement."""

    def __init__(self, world: World, name: str, command: list[str], environment: dict[str, str]) -> None:
        self._world, self._name = world, name
        world.cluster.processes.start(name, command, environment=environment)
        self._process = psutil.Process(world.cluster.processes.pid(name))

    def cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def resident_megabytes(self) -> float:
        return float(self._process.memory_info().rss) / 1e6

    def wait_until_idle(self, seconds: float = 5) -> None:
        """Until it has used next to no CPU time for this long. Its metrics are not asked: that costs it CPU time."""
        before, quiet = self.cpu_seconds(), 0.0
        while quiet < seconds:
            time.sleep(0.5)
            now = self.cpu_seconds()
            quiet = quiet + 0.5 if now - before < 0.03 else 0.0
            before = now

    def stop(self) -> None:
        self._world.cluster.processes.stop(self._name)


class Operator(Process):
    """Ours, as it is installed: `python -m rewarm_operator` under the rights of the chart."""

    def __init__(self, world: World, kubeconfig: Path, name: str = "operator") -> None:
        self._port, health = free_ports(2)
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "REWARM_TRAINER_IMAGE": "localhost/rewarm-trainer:dev",
            "REWARM_NAMESPACES": NAMESPACE,
            "REWARM_OPERATOR_NAMESPACE": NAMESPACE,
            "REWARM_IDENTITY": f"{name}-{os.getpid()}",
            "REWARM_LISTEN": "127.0.0.1",
            "REWARM_METRICS_PORT": str(self._port),
            "REWARM_HEALTH_PORT": str(health),
        }
        super().__init__(world, name, [sys.executable, "-m", "rewarm_operator"], environment)

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith((f"{name} ", f"{name}{{")):
                    return float(line.rsplit(" ", 1)[1])
        raise RuntimeError(f"no metric {name}")

    def wait_until_leading(self, within_s: float = 180) -> float:
        """The moment (monotonic) when it leads."""
        give_up = time.monotonic() + within_s
        while time.monotonic() < give_up:
            try:
                if self.metric("rewarm_operator_leader") == 1:
                    return time.monotonic()
            except (OSError, RuntimeError):
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the operator does not lead; {self._world.cluster.processes.log_tail(self._name, 30)}")


def operator_account(world: World) -> Path:
    """A kubeconfig of the operator's service account, with exactly the rendered rights."""
    world.cluster.apply(rights(render({}, namespace=NAMESPACE)))
    return world.cluster.service_account(NAMESPACE, "rewarm")
