"""The operator as a real process on a real API server, through a fault proxy, with exactly the rights of the chart."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_proxy import FaultProxy
from rendered_chart import render, rights

from rewarm_api.manifest import read_manifest, set_path
from rewarm_api.reported import Termination
from rewarm_cluster.api import Api
from rewarm_cluster.control_plane import ControlPlane
from rewarm_cluster.processes import free_ports

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
ACCOUNT = "rewarm"


def operator_kubeconfig(cluster: ControlPlane, namespace: str, url: str, **values: Any) -> Path:
    """A token of the chart's service account, with the rights that the chart renders, through `url`."""
    values = {"watch": {"namespaces": [namespace]}, **values}
    cluster.apply(rights(render(values, name=ACCOUNT, namespace=namespace)))
    return cluster.service_account(namespace, ACCOUNT, url=url)


@dataclass
class OperatorProcess:
    """`python -m rewarm_operator`; its log is a file. A context manager that leaves nothing behind."""

    kubeconfig: Path
    namespace: str
    log: Path
    identity: str = "operator-1"
    settings: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = (sys.executable, "-m", "rewarm_operator")
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> OperatorProcess:
        self.health_port, self.metrics_port, self.progress_port = free_ports(3)
        environment = {name: text for name, text in os.environ.items() if not name.startswith("REWARM_")}
        environment |= {
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("api", "operator")),
            "KUBECONFIG": str(self.kubeconfig),
            "REWARM_TRAINER_IMAGE": "localhost/rewarm-trainer:test",
            "REWARM_NAMESPACES": self.namespace,
            "REWARM_OPERATOR_NAMESPACE": self.namespace,
            "REWARM_IDENTITY": self.identity,
            "REWARM_DEFAULT_CHECKPOINTS_URI": "s3://runs/",
            "REWARM_LISTEN": "127.0.0.1",
            "REWARM_HEALTH_PORT": str(self.health_port),
            "REWARM_METRICS_PORT": str(self.metrics_port),
            "REWARM_PROGRESS_PORT": str(self.progress_port),
            "REWARM_RESYNC_SECONDS": "5",
            "REWARM_STATUS_INTERVAL_SECONDS": "1",
            "REWARM_LEASE_NAME": "rewarm",
            "REWARM_LOG_LEVEL": "DEBUG",
            **self.settings,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        return self

    def kill(self) -> None:
        """SIGKILL, at once."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def freeze(self) -> None:
        """SIGSTOP: it is not dead, and does nothing until `thaw`."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def end(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def restart(self) -> OperatorProcess:
        self.kill()
        return self.start()

    def __enter__(self) -> OperatorProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def metric(self, line: str) -> float | None:
        """Value of one line of /metrics, named with its labels; None: not there (yet)."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None
        found = [each for each in text.splitlines() if each.startswith(line + " ")]
        return float(found[0].rpartition(" ")[2]) if found else None

    def await_metric(self, line: str, value: float | None, within_s: float = 60) -> None:
        """Until the line has this value (None: is not there). Prometheus polls, so do we: a metric sends no event."""
        give_up = time.monotonic() + within_s
        while (found := self.metric(line)) != value:
            assert self.alive(), f"the operator ended with {self.process and self.process.poll()}:\n{self.tail()}"
            assert time.monotonic() < give_up, f"{line}: found {found}, expected {value}\n{self.tail()}"
            time.sleep(0.05)

    def lead(self) -> OperatorProcess:
        """Wait until it is the active one."""
        self.await_metric("rewarm_operator_leader", 1.0)
        return self

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


End = tuple[int, str] | Json
"""Exit code and termination message, or the pod's status word for word."""


class Kubelet:
    """Plays scheduler and kubelet for one namespace: starts every pod, and ends it as `ends` says.

    `ends(pod)` is asked once a pod runs: (exit code, message) or a whole status, or None to leave it running. A thread
    of its own; pods are driven by their events, whatever the operator does meanwhile. `clock_s`: by how much its clock
    is ahead.
    """

    def __init__(
        self, cluster: ControlPlane, namespace: str, ends: Callable[[Json], End | None], clock_s: float = 0.0
    ) -> None:
        self.api = Api(cluster.url, cluster.authority, certificate=cluster._administrator)
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        self.ends, self.clock_s = ends, clock_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(15)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                for event in self.api.watch(self.pods, timeout_s=3):
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._look(event["object"])
                    if self._stop.is_set():
                        return
            except (OSError, AssertionError, ValueError, http.client.HTTPException):
                self._stop.wait(0.3)  # the API server is away, or it went away in the middle of a line

    def _look(self, pod: Json) -> None:
        phase = pod["status"].get("phase", "Pending")
        if phase == "Pending":
            self.set(pod, running(pod, self.clock_s))
        elif phase == "Running" and not pod["metadata"].get("deletionTimestamp"):
            end = self.ends(pod)
            if end is not None:
                self.set(pod, end if isinstance(end, dict) else ended(pod, *end, clock_s=self.clock_s))

    def set(self, pod: Json, status: Json) -> None:
        """Write a pod's status; one that has gone meanwhile is left."""
        answer, body = self.api.call("PATCH", f"{self.pods}/{pod['metadata']['name']}/status", {"status": status})
        assert answer in (200, 404, 409), body


def now(clock_s: float = 0.0) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + clock_s))


def role(pod: Json) -> str:
    return str(pod["metadata"]["labels"]["rewarm.dev/role"])


def attempt(pod: Json) -> int:
    return int(pod["metadata"]["labels"].get("rewarm.dev/attempt", "0"))


def rank(pod: Json) -> int:
    return int(pod["metadata"]["annotations"].get("batch.kubernetes.io/job-completion-index", "0"))


def running(pod: Json, clock_s: float = 0.0) -> Json:
    container = _container(pod, {"running": {"startedAt": now(clock_s)}})
    return {"phase": "Running", "startTime": now(clock_s), "containerStatuses": [container]}


def ended(pod: Json, code: int, message: str = "", clock_s: float = 0.0) -> Json:
    terminated = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "message": message}
    terminated |= {"startedAt": now(clock_s), "finishedAt": now(clock_s)}
    phase = "Succeeded" if code == 0 else "Failed"
    return {"phase": phase, "containerStatuses": [_container(pod, {"terminated": terminated})]}


def _container(pod: Json, state: Json) -> Json:
    image = pod["spec"]["containers"][0]["image"]
    status = {"name": "trainer", "image": image, "imageID": "", "restartCount": 0, "ready": "running" in state}
    # Merge-patch keeps what is not named: the other states have to be taken away.
    return status | {"state": {"running": None, "waiting": None, "terminated": None} | state}


def prepared() -> str:
    pins = {"uri": "s3://runs/pins.json", "digest": "sha256:" + "a" * 64, "tokens": 65536, "steps": 64}
    return Termination.model_validate({"outcome": "Succeeded", "exitCode": 0, "pins": pins}).to_message()


def trained() -> str:
    """What rank 0 says at the end of a run without gates."""
    report = {
        "progress": {"step": 64, "tokens": 65536, "targetTokens": 65536, "percent": 100, "tokensPerSecond": 1000.0},
        "evaluation": [{"set": "notes", "role": "New", "baseline": 8.0, "latest": 5.0, "delta": {"mean": -3.0}}],
        "gain": {"mean": 3.0},
        "checkpoint": {"uri": "s3://runs/step-64/", "step": 64, "committedAt": now(), "sha256": "b" * 64},
        "attempt": {"number": 1, "firstStep": 1, "lastStep": 64},
        "outcome": "Succeeded",
    }
    return Termination.model_validate({"outcome": "Succeeded", "exitCode": 0, "report": report}).to_message()


def succeed(pod: Json) -> End | None:
    """Everything goes well."""
    return (0, prepared()) if role(pod) == "prepare" else (0, trained() if rank(pod) == 0 else "")


def prepare_only(pod: Json) -> End | None:
    """Preparation ends, training goes on for ever."""
    return (0, prepared()) if role(pod) == "prepare" else None


@dataclass
class Place:
    """A namespace of its own with a proxy before its operator."""

    cluster: ControlPlane
    namespace: str
    proxy: FaultProxy
    kubeconfig: Path
    folder: Path
    since: str = ""
    """resourceVersion at the start of the test."""

    def __post_init__(self) -> None:
        self.since = self.api.get(self.jobs)["metadata"]["resourceVersion"]

    @property
    def api(self) -> Api:
        return self.cluster.api

    @property
    def runs(self) -> str:
        return f"/apis/rewarm.dev/v1alpha1/namespaces/{self.namespace}/continualruns"

    @property
    def jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs"

    def operator(self, identity: str = "operator-1", **settings: str) -> OperatorProcess:
        named = {f"REWARM_{name.upper()}": text for name, text in settings.items()}
        return OperatorProcess(self.kubeconfig, self.namespace, self.folder / f"{identity}.log", identity, named)

    def kubelet(self, ends: Callable[[Json], End | None] = succeed) -> Kubelet:
        return Kubelet(self.cluster, self.namespace, ends)

    def manifest(self, name: str = "run", **changes: str) -> Json:
        """A small CPU run on two nodes; `changes` are paths, with __ for dots, and YAML values."""
        document: Json = read_manifest(ROOT / "tests/unit/api/minimal.yaml")
        document["metadata"] = {"name": name, "namespace": self.namespace}
        set_path(document, "spec.corpus.sources[0].uri", "s3://corpora/notes.txt")
        set_path(document, "spec.compute", "{nodes: 2, gpusPerNode: 0}")
        for path, text in changes.items():
            set_path(document, path.replace("__", "."), text)
        return document

    def submit(self, name: str = "run", **changes: str) -> str:
        """The path of the run that was made."""
        status, answer = self.api.call("POST", self.runs, self.manifest(name, **changes))
        assert status == 201, answer
        return f"{self.runs}/{name}"

    def edit(self, path: str, patch: Json) -> None:
        status, answer = self.api.call("PATCH", path, patch)
        assert status == 200, answer

    def jobs_made(self) -> list[str]:
        """Names of all Jobs that ever were, from the API server's history: what comes twice was made twice."""
        history = self.api.watch(self.jobs, timeout_s=1, resourceVersion=self.since)
        return sorted(event["object"]["metadata"]["name"] for event in history if event["type"] == "ADDED")

    def job_names(self) -> list[str]:
        return sorted(job["metadata"]["name"] for job in self.api.get(self.jobs)["items"])

    def finished(self, path: str, within_s: float = 90) -> Json:
        """The run once Succeeded is no longer Unknown."""
        found = self.api.wait(path, lambda run: condition(run, "Succeeded")[0] in ("True", "False"), within_s=within_s)
        assert found is not None
        return found


def condition(run: Json | None, kind: str) -> tuple[str, str]:
    """(status, reason); empty texts where it is not there."""
    for each in ((run or {}).get("status") or {}).get("conditions") or ():
        if each["type"] == kind:
            return each["status"], each.get("reason", "")
    return "", ""


def counts(run: Json) -> tuple[int, int, int]:
    """(attempts, failures, disruptions)."""
    found = run["status"]["counts"]
    return found["attempts"], found["failures"], found["disruptions"]


@contextlib.contextmanager
def workloads(place: Place) -> Iterator[None]:
    """Kueue's kind of objects, without Kueue: what the operator's discovery goes by."""
    name = "workloads.kueue.x-k8s.io"
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": free}}
    names = {"kind": "Workload", "listKind": "WorkloadList", "plural": "workloads", "singular": "workload"}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {"group": "kueue.x-k8s.io", "scope": "Namespaced", "names": names, "versions": [version]},
    }
    place.cluster.apply([crd])
    try:
        yield
    finally:
        assert place.api.call("DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")[0] == 200
