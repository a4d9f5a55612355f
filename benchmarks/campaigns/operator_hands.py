"""What people's hands do to a run, and machines that go: Jobs and pods deleted, a pod stuck, a node gone."""

from __future__ import annotations

from collections.abc import Callable

from operator_process import End, Kubelet, OperatorProcess, Place, attempt, rank, role, succeed

from campaigns.operator_stage import Json, Life, Scene, Struck


def deleted_by_hand(policy: str, *, dead: bool = False) -> Callable[[Scene], Struck]:
    """The Job of the attempt that runs; `dead`: while no operator lives."""

    def act(scene: Scene) -> Struck:
        scene.submit()
        scene.running()
        operator: OperatorProcess = scene.operators.operator
        if dead:
            operator.freeze()  # the one that keeps it alive must not see a death
        body = {"propagationPolicy": policy}
        assert scene.place.api.call("DELETE", f"{scene.place.jobs}/run-a1", body)[0] == 200
        if dead:
            scene.place.api.wait(f"{scene.place.jobs}/run-a1", lambda job: job is None)
            operator.kill()
        return lambda: 1

    return act


def prepare_deleted(scene: Scene) -> Struck:
    scene.submit()
    path = f"{scene.place.jobs}/run-prepare"
    scene.place.api.wait(path, lambda job: job is not None and job["status"].get("active") == 1)
    scene.kubelet.release()
    assert scene.place.api.call("DELETE", path, {"propagationPolicy": "Background"})[0] == 200
    return lambda: 1


class Node(Kubelet):
    """A kubelet whose pods are bound to nodes, so they end gracefully; it leaves those that `lost` names alone."""

    def __init__(self, place: Place, life: Life) -> None:
        super().__init__(place.cluster, place.namespace, life.ends)
        self.lost: Callable[[Json], bool] = lambda pod: False
        self.node = f"{place.namespace}-1"
        self.add_node()

    def add_node(self) -> None:
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}}
        assert self.api.call("POST", "/api/v1/nodes", body)[0] == 201

    def _look(self, pod: Json) -> None:
        path = f"{self.pods}/{pod['metadata']['name']}"
        if self.lost(pod):
            return
        if not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": self.node}
            body = {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": pod["metadata"]["name"]},
                "target": target,
            }
            answer, text = self.api.call("POST", f"{path}/binding", body)
            assert answer in (201, 404, 409), text
        elif pod["metadata"].get("deletionTimestamp"):
            self.api.call("DELETE", path, {"gracePeriodSeconds": 0})
        else:
            super()._look(pod)


def stuck_terminating(scene: Scene) -> Struck:
    """Rank 1's pod is told to go, and never does."""
    scene.submit()
    scene.running()
    pods = scene.place.api.get(scene.kubelet.pods)["items"]
    (victim,) = (pod["metadata"] for pod in pods if attempt(pod) == 1 and rank(pod) == 1)
    scene.kubelet.lost = lambda pod: pod["metadata"]["uid"] == victim["uid"]
    body = {"gracePeriodSeconds": 2}
    assert scene.place.api.call("DELETE", f"{scene.kubelet.pods}/{victim['name']}", body)[0] == 200
    return lambda: 1


def node_gone(scene: Scene) -> Struck:
    """With its kubelet; the pod garbage collector notices after a minute."""
    scene.submit()
    scene.running()
    gone = scene.kubelet.node
    scene.kubelet.lost = lambda pod: pod["spec"].get("nodeName") == gone
    scene.kubelet.node = f"{scene.place.namespace}-2"
    scene.kubelet.add_node()
    assert scene.place.api.call("DELETE", f"/api/v1/nodes/{gone}")[0] == 200
    return lambda: 1


def pod_deleted(scene: Scene) -> Struck:
    scene.submit()
    scene.running()
    name = next(p["metadata"]["name"] for p in scene.place.api.get(scene.kubelet.pods)["items"] if attempt(p) == 1)
    assert scene.place.api.call("DELETE", f"{scene.kubelet.pods}/{name}")[0] == 200
    return lambda: 1


def _second_time(pod: Json) -> End | None:
    """Attempt 1 goes on for ever, the next one comes to its end."""
    return None if role(pod) != "prepare" and attempt(pod) == 1 else succeed(pod)


TWICE = Life(_second_time, nodes=2)


def taken_away(cause: str) -> Json:
    """The end of a run whose first attempt was taken from it."""
    return {
        "attempts": {1: cause, 2: "Completed"},
        "counts": {"attempts": 2, "failures": 0, "disruptions": 1},
        "jobs": {"run-a2": "Complete", "run-prepare": "Complete"},
    }
