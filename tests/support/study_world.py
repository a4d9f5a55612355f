"""A study before an API server in memory, with the real store, executor and decision; runs end as tests say."""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path

from memory_cluster import MemoryCluster
from operator_kubernetes import Json, stamp

from rewarm_api.manifest import read_manifest, set_path
from rewarm_api.reported import Termination
from rewarm_api.study_status import StudyStatus
from rewarm_operator.actions import Decision, Emit
from rewarm_operator.executor import Executor
from rewarm_operator.queue import Again
from rewarm_operator.resources import JOB, POD, RUN, STUDY, Resource
from rewarm_operator.settings import Settings
from rewarm_operator.store import Key, Store
from rewarm_operator.studying import decide_study

EXAMPLE = Path(__file__).parents[2] / "examples" / "study-on-a-cluster.yaml"
SETTINGS = Settings(
    trainer_image="rewarm-trainer:1", default_checkpoints_uri="s3://runs/", status_interval_seconds=0,
    progress_url="https://rewarm.rewarm-system.svc:8443", progress_ca="PEM",
)  # fmt: skip
NAMESPACE = "research"
RESULT: Json = {
    "answers": {
        "largestShare": [
            {"tokens": 500_000_000, "replayRatio": 0.1875, "low": 0.15, "high": 0.21, "law": "CMR", "tolerance": "2%"}
        ],
        "sets": [{"set": "general", "role": "Retained", "r2": 0.99}],
    },
    "artefact": {"uri": "s3://runs/research/pubmed-mix/study.json", "digest": "sha256:" + "a" * 64},
}


class Dated(MemoryCluster):
    """Objects have the moment of their making, by the world's clock."""

    now: datetime

    def put(self, resource: Resource, namespace: str, item: Json) -> Json:
        made = {"creationTimestamp": stamp(self.now)} | item["metadata"]
        return super().put(resource, namespace, {**item, "metadata": made})


class StudyWorld:
    """See the module. `changes` are paths in the manifest, with __ for dots, and YAML values."""

    def __init__(self, settings: Settings = SETTINGS, **changes: str) -> None:
        self.cluster, self.settings = Dated(), settings
        # Ahead of the executor, which has a clock of its own for what it wrote last.
        self.now = datetime.now(UTC) + timedelta(hours=1)
        self.cluster.now = datetime.now(UTC)
        self.told: list[Key] = []
        self.events: list[Emit] = []
        document: Json = read_manifest(EXAMPLE)
        for path, text in changes.items():
            set_path(document, path.replace("__", "."), text)
        made = {**document, "metadata": {**document["metadata"], "generation": 1}}
        self.name = str(made["metadata"]["name"])
        self.cluster.put(STUDY, NAMESPACE, made)
        self.cluster.now = self.now
        self.restart()

    # -- the operator --------------------------------------------------------------------------------------------------

    def restart(self, unseen: str = "") -> None:
        """A new process: it knows what the API server has, and nothing else; `unseen`: but for this object."""
        self.store = Store(lambda key: None, on_study_change=self.told.append)
        for (kind, _, name), item in self.cluster.objects.items():
            if name != unseen:
                self.store.put(kind, copy.deepcopy(item))
        self.executor = Executor(self.cluster, self.store, self, lambda uid, track: None, STUDY)

    def emit(self, run: Json, event: Emit) -> None:
        assert run["kind"] == "MixtureStudy"
        self.events.append(event)

    def decide(self) -> Decision:
        observed = self.store.observe_study((NAMESPACE, self.name), self.now)
        return Decision() if observed is None else decide_study(observed, self.settings)

    def visit(self) -> Decision:
        decision = self.decide()
        asyncio.run(self.executor.execute((NAMESPACE, self.name), decision.actions))
        if self.status:
            StudyStatus.model_validate(self.status)
        return decision

    def settle(self) -> Decision:
        """Visit until nothing is written any more."""
        for _ in range(30):
            before = len(self.cluster.log)
            try:
                decision = self.visit()
            except Again:
                continue
            if len(self.cluster.log) == before:
                return decision
        raise AssertionError(f"never settles: {self.cluster.log[-6:]}")

    # -- what happens to it --------------------------------------------------------------------------------------------

    def edit(self, path: str, text: str) -> None:
        study = self.there("MixtureStudy", self.name)
        set_path(study, path, text)
        study["metadata"]["generation"] += 1
        self.put(STUDY, study)

    def put(self, resource: Resource, item: Json) -> None:
        self.store.put(resource.kind, self.cluster.put(resource, NAMESPACE, copy.deepcopy(item)))

    def end(self, name: str, status: str = "True", reason: str = "NoGates", message: str = "") -> None:
        """A run's verdict."""
        self.tell(name, "Succeeded", status, reason, message)

    def tell(self, name: str, kind: str, status: str, reason: str = "", message: str = "") -> None:
        """A condition of a run."""
        run = self.there("ContinualRun", name)
        told = {"type": kind, "status": status, "reason": reason, "message": message}
        rest = [each for each in run.get("status", {}).get("conditions", []) if each["type"] != kind]
        run["status"] = {"conditions": [*rest, told]}
        self.put(RUN, run)

    def finish_runs(self) -> None:
        """Every run of the grid succeeds, as many at a time as the study has."""
        for _ in range(100):
            self.settle()
            if not (running := self.open_runs()):
                return
            for name in running:
                self.end(name)
        raise AssertionError("runs without end")

    def end_fit(self, code: int = 0, result: Json | None = None, message: str = "") -> None:
        """The Job's pod ends, then the Job."""
        job = self.there("Job", f"{self.name}-fit")
        text = ""
        if code or result is not None:
            said = {"exitCode": code, "message": message} | ({"study": result} if result is not None else {})
            text = Termination.model_validate(said).to_message()
        template, uid = job["spec"]["template"], job["metadata"]["uid"]
        terminated = {"exitCode": code, "reason": "x", "finishedAt": stamp(self.now), "message": text}
        owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": uid}
        metadata = {**template["metadata"], "name": f"{self.name}-fit-{uid}", "ownerReferences": [owner]}
        phase = "Failed" if code else "Succeeded"
        container = {"name": "trainer", "state": {"terminated": terminated}}
        status = {"phase": phase, "containerStatuses": [container]}
        self.put(POD, {"metadata": metadata, "spec": template["spec"], "status": status})
        verdict = {"type": "Failed" if code else "Complete", "status": "True", "lastTransitionTime": stamp(self.now)}
        job["status"] = {"conditions": [verdict]}
        self.put(JOB, job)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.cluster.now = self.now

    # -- what is there -------------------------------------------------------------------------------------------------

    def there(self, kind: str, name: str) -> Json:
        return copy.deepcopy(self.cluster.objects[kind, NAMESPACE, name])

    def names(self, kind: str) -> list[str]:
        return sorted(name for each, _, name in self.cluster.objects if each == kind)

    def open_runs(self) -> list[str]:
        return [
            name
            for name in self.names("ContinualRun")
            if not any(
                c["type"] == "Succeeded"
                for c in self.there("ContinualRun", name).get("status", {}).get("conditions", [])
            )
        ]

    @property
    def status(self) -> Json:
        found: Json = self.there("MixtureStudy", self.name).get("status", {})
        return found

    def told_of(self, kind: str) -> tuple[str, str]:
        found = next(each for each in self.status["conditions"] if each["type"] == kind)
        return found["status"], found["reason"]

    def message(self, kind: str) -> str:
        return str(next(each for each in self.status["conditions"] if each["type"] == kind)["message"])
