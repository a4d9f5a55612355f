"""What people, the Job controller and the kubelet do to the objects of one run: the other half of `operator_world`."""

from __future__ import annotations

import copy
import itertools
from datetime import datetime, timedelta
from typing import Any

from rewarm_api.reported import Report, Termination
from rewarm_operator.observed import Heartbeat

Json = dict[str, Any]


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Kubernetes:
    """Objects by name, and a clock that only tests move."""

    now: datetime
    run: Json | None
    jobs: dict[str, Json]
    pods: dict[str, Json]
    heartbeat: Heartbeat | None

    def __init__(self) -> None:
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    def _touch(self, item: Json) -> None:
        item["metadata"]["resourceVersion"] = str(next(self._versions))

    # -- what people do ------------------------------------------------------------------------------------------------

    def edit(self, path: str, value: Any) -> None:
        """kubectl edit: a path in the spec, parts joined by dots."""
        assert self.run is not None
        *parents, last = path.split(".")
        node = self.run["spec"]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        self.run["metadata"]["generation"] += 1
        self._touch(self.run)

    def annotate(self, name: str, value: str) -> None:
        assert self.run is not None
        self.run["metadata"].setdefault("annotations", {})[name] = value
        self._touch(self.run)

    def delete_run(self) -> None:
        assert self.run is not None
        self.run["metadata"]["deletionTimestamp"] = stamp(self.now)
        self._touch(self.run)

    def delete_job(self, name: str) -> None:
        """Background: the Job is gone at once, its pods are told to stop."""
        job = self.jobs.pop(name)
        for pod in self.pods_of(job):
            if pod["status"]["phase"] in ("Succeeded", "Failed"):
                del self.pods[pod["metadata"]["name"]]
            else:
                grace = pod["spec"]["terminationGracePeriodSeconds"]
                pod["metadata"]["deletionTimestamp"] = stamp(self.now + timedelta(seconds=grace))

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # -- what Kubernetes does ------------------------------------------------------------------------------------------

    def pods_of(self, job: Json) -> list[Json]:
        uid = job["metadata"]["uid"]
        return [p for p in self.pods.values() if p["metadata"]["ownerReferences"][0]["uid"] == uid]

    def schedule(self, name: str, *, running: bool = True) -> list[Json]:
        """The Job controller makes the pods, the kubelet starts them."""
        job = self.jobs[name]
        template = job["spec"]["template"]
        for rank in range(job["spec"]["completions"]):
            pod_name = f"{name}-{rank}-{next(self._uids)}"
            indexed = job["spec"].get("completionMode") == "Indexed"
            annotations = dict(template["metadata"]["annotations"])
            if indexed:
                annotations["batch.kubernetes.io/job-completion-index"] = str(rank)
            state = (
                {"running": {"startedAt": stamp(self.now)}} if running else {"waiting": {"reason": "ContainerCreating"}}
            )
            self.pods[pod_name] = {
                "metadata": {
                    "name": pod_name,
                    "namespace": "research",
                    "uid": f"uid-{next(self._uids)}",
                    "creationTimestamp": stamp(self.now),
                    "labels": dict(template["metadata"]["labels"]),
                    "annotations": annotations,
                    "ownerReferences": [
                        {"kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
                    ],
                },
                "spec": copy.deepcopy(template["spec"]),
                "status": {
                    "phase": "Running" if running else "Pending",
                    "conditions": [{"type": "PodScheduled", "status": "True"}],
                    "containerStatuses": [{"name": "trainer", "state": state}],
                },
            }
        job["status"] = {"active": job["spec"]["completions"], "startTime": stamp(self.now)}
        return self.pods_of(job)

    def pod(self, job: str, rank: int = 0) -> Json:
        found = [
            p
            for p in self.pods_of(self.jobs[job])
            if p["metadata"]["annotations"].get("batch.kubernetes.io/job-completion-index", "0") == str(rank)
        ]
        return found[-1]

    def end_pod(
        self, job: str, rank: int = 0, code: int = 0, *, reason: str = "", message: str = "", disruption: str = ""
    ) -> None:
        pod = self.pod(job, rank)
        terminated = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "startedAt": stamp(self.now),
            "finishedAt": stamp(self.now),
            "message": message,
        }
        pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
        pod["status"]["containerStatuses"] = [{"name": "trainer", "state": {"terminated": terminated}}]
        if disruption:
            self.disrupt(job, rank, disruption)

    def disrupt(self, job: str, rank: int, reason: str) -> None:
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "message": f"{reason}: told to go",
            "lastTransitionTime": stamp(self.now),
        }
        self.pod(job, rank)["status"]["conditions"].append(condition)

    def end_job(self, name: str, kind: str = "Failed", reason: str = "BackoffLimitExceeded", message: str = "") -> None:
        """`kind`: Complete, Failed or FailureTarget."""
        condition = {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": stamp(self.now),
        }
        self.jobs[name]["status"].setdefault("conditions", []).append(condition)

    def fail(self, name: str, code: int, *, rank: int = 0, message: str = "", **more: str) -> None:
        """One rank ends with this code, the others are stopped, the Job has failed."""
        self.end_pod(name, rank, code, message=message, **more)
        self.wait(1)
        for pod in self.pods_of(self.jobs[name]):
            if pod["status"]["phase"] not in ("Succeeded", "Failed"):
                other = int(pod["metadata"]["annotations"].get("batch.kubernetes.io/job-completion-index", "0"))
                self.end_pod(name, other, 143)
        self.end_job(name)

    def succeed(self, name: str, termination: Termination | None = None) -> None:
        for rank in reversed(range(self.jobs[name]["spec"]["completions"])):
            message = termination.to_message() if termination is not None and rank == 0 else ""
            self.end_pod(name, rank, 0, message=message)
        self.end_job(name, "Complete", "CompletionsReached")

    def succeed_prepare(self) -> None:
        self.schedule("llama-prepare")
        self.succeed("llama-prepare")

    def report(self, job: str, number: int, **said: Any) -> None:
        """Rank 0 tells the progress server."""
        pod = self.pod(job, 0)
        self.heartbeat = Heartbeat(number, pod["metadata"]["uid"], self.now, Report.model_validate(said))
