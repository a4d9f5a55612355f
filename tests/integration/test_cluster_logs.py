"""`rewarm logs` through a real kube-apiserver, which asks a node's kubelet for each line; the node is the test's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_screens import SUCCEEDED
from log_kubelet import LogKubelet
from real_cluster import needs_control_plane

from rewarm_api.manifest import read_manifest, set_path
from rewarm_cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.cluster, needs_control_plane("api")]

ROOT = Path(__file__).parents[2]
RUNS = "/apis/rewarm.dev/v1alpha1/namespaces/default/continualruns"
PODS = "/api/v1/namespaces/default/pods"
TIME = "2026-01-31T12:00:0"


@dataclass
class World:
    plane: ControlPlane
    kubelet: LogKubelet
    environment: dict[str, str]

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        status, answer = self.plane.api.call(method, path, body)
        assert status < 300, answer
        return dict(answer)

    def submit(self, name: str) -> str:
        """The run's uid."""
        document = read_manifest(ROOT / "tests/unit/api/minimal.yaml")
        set_path(document, "spec.corpus.sources[0].uri", "s3://corpora/notes.txt")
        document["metadata"]["name"] = name
        return str(self.call("POST", RUNS, document)["metadata"]["uid"])

    def pod(self, run: str, uid: str, name: str, *, role: str = "trainer", attempt: int = 1, rank: int = 0) -> str:
        """A pod on the node, whose container runs."""
        labels = {"rewarm.dev/run": run, "rewarm.dev/run-uid": uid, "rewarm.dev/role": role}
        if role == "trainer":
            labels |= {"rewarm.dev/attempt": str(attempt), "batch.kubernetes.io/job-completion-index": str(rank)}
        spec = {"nodeName": "node-1", "containers": [{"name": "trainer", "image": "none:1"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
        self.call("POST", PODS, body)
        self.state(name, {"running": {"startedAt": "2026-01-31T12:00:00Z"}})
        return name

    def state(self, pod: str, state: dict[str, Any]) -> None:
        container = {"name": "trainer", "image": "none:1", "imageID": "", "ready": True, "restartCount": 0}
        status = {"phase": "Running", "containerStatuses": [{**container, "state": state}]}
        self.call("PATCH", f"{PODS}/{pod}/status", {"status": status})

    def end(self, pod: str) -> None:
        self.kubelet.end(pod)
        self.state(pod, {"terminated": {"exitCode": 0, "startedAt": None, "finishedAt": None}})

    def logs(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rewarm_cli", "logs", *arguments], env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ControlPlane("api") as plane, LogKubelet(*plane.serving) as kubelet:
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": "default"},
        }
        plane.apply([account])
        plane.apply((ROOT / "crds/continualruns.yaml").read_text())
        plane.api.wait(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/continualruns.rewarm.dev",
            lambda crd: any(
                item["type"] == "Established" and item["status"] == "True"
                for item in (crd or {}).get("status", {}).get("conditions") or []
            ),
        )
        paths = [str(ROOT / part) for part in ("api", "trainer", "cli")]
        environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "PYTHONPATH": os.pathsep.join(paths)}
        world = World(plane, kubelet, environment)
        world.call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
        }
        world.call("PATCH", "/api/v1/nodes/node-1/status", {"status": status})
        yield world


def test_what_all_pods_wrote_in_order(world):
    uid = world.submit("ordered")
    world.pod("ordered", uid, "ordered-a1-0-aaaaa")
    world.pod("ordered", uid, "ordered-a1-1-bbbbb", rank=1)
    world.pod("ordered", uid, "ordered-prepare-ccccc", role="prepare")
    world.pod("other", "another-uid", "other-a1-0-ddddd")
    world.kubelet.write("ordered-a1-0-aaaaa", f"{TIME}1.0Z one", f"{TIME}3.0Z three")
    world.kubelet.write("ordered-a1-1-bbbbb", f"{TIME}2.0Z two")
    world.kubelet.write("ordered-prepare-ccccc", f"{TIME}0.0Z tokenised")
    world.kubelet.write("other-a1-0-ddddd", f"{TIME}0.0Z not ours")
    out, err = world.logs("ordered").communicate(timeout=60)
    assert out.splitlines() == ["prepare | tokenised", "a1/0 | one", "a1/1 | two", "a1/0 | three"], err
    out, _ = world.logs("ordered", "--rank", "1", "--timestamps", "--no-prefix").communicate(timeout=60)
    assert out == f"{TIME}2.0Z two\n"
    world.logs("ordered", "--tail", "2", "--role", "prepare").communicate(timeout=60)
    pod, query = world.kubelet.asked[-1]
    assert (pod, query["tailLines"], query["timestamps"]) == ("ordered-prepare-ccccc", "2", "true")


def test_following_goes_from_one_attempt_to_the_next_and_ends_with_the_run(world):
    uid = world.submit("followed")
    first = world.pod("followed", uid, "followed-a1-0-aaaaa")
    world.kubelet.write(first, f"{TIME}1.0Z step 1")
    following = world.logs("followed", "-f")
    assert following.stdout is not None
    assert following.stdout.readline() == "a1/0 | step 1\n"
    world.kubelet.write(first, f"{TIME}2.0Z step 2")
    assert following.stdout.readline() == "a1/0 | step 2\n"
    # Preempted: the operator deletes the Job, its pod goes, attempt 2 begins.
    world.end(first)
    world.call("DELETE", f"{PODS}/{first}?gracePeriodSeconds=0")
    second = world.pod("followed", uid, "followed-a2-0-bbbbb", attempt=2)
    world.kubelet.write(second, f"{TIME}3.0Z resumed after step 1")
    assert following.stdout.readline() == "a2/0 | resumed after step 1\n"
    world.kubelet.write(second, f"{TIME}4.0Z done")
    world.end(second)
    world.call("PATCH", f"{RUNS}/followed/status", {"status": SUCCEEDED})
    out, err = following.communicate(timeout=60)
    assert (following.returncode, out) == (0, "a2/0 | done\n"), err


def test_following_outlives_a_restart_of_the_api_server_and_tells_each_line_once(world):
    uid = world.submit("restarted")
    pod = world.pod("restarted", uid, "restarted-a1-0-aaaaa")
    world.kubelet.write(pod, f"{TIME}1.0Z before")
    following = world.logs("restarted", "-f")
    assert following.stdout is not None
    assert following.stdout.readline() == "a1/0 | before\n"
    world.plane.restart_apiserver()
    world.kubelet.write(pod, f"{TIME}2.0Z after")
    told = following.stdout.readline()
    assert told == "a1/0 | after\n", following.communicate(timeout=60)
    world.end(pod)
    world.call("PATCH", f"{RUNS}/restarted/status", {"status": SUCCEEDED})
    out, err = following.communicate(timeout=90)
    assert (following.returncode, out) == (0, ""), err


def test_a_node_that_is_gone_hides_nothing(world):
    uid = world.submit("lost")
    world.pod("lost", uid, "lost-a1-0-aaaaa")
    world.kubelet.write("lost-a1-0-aaaaa", f"{TIME}1.0Z here")
    gone = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-2"}}
    world.call("POST", "/api/v1/nodes", gone)
    addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
    status = {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}
    world.call("PATCH", "/api/v1/nodes/node-2/status", {"status": status})
    labels = {"rewarm.dev/run-uid": uid, "rewarm.dev/role": "trainer", "rewarm.dev/attempt": "1"}
    labels["batch.kubernetes.io/job-completion-index"] = "1"
    spec = {"nodeName": "node-2", "containers": [{"name": "trainer", "image": "none:1"}]}
    metadata = {"name": "lost-a1-1-bbbbb", "labels": labels}
    world.call("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    world.state("lost-a1-1-bbbbb", {"running": {"startedAt": "2026-01-31T12:00:00Z"}})
    reading = world.logs("lost")
    out, err = reading.communicate(timeout=60)
    assert (reading.returncode, out) == (0, "a1/0 | here\n")
    assert "warning: the log of pod lost-a1-1-bbbbb cannot be read" in err
