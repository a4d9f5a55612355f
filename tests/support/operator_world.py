"""One run in a small honest API server: unique names, resource versions with conflicts, merge-patch, owner references.

It also plays the Job controller, the kubelet and MLflow, as far as a test asks for. Nothing of ours is replaced: it
executes what `decide` asks for, and shows back what an API server 1.36 would, trimmed as the store trims it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml
from operator_kubernetes import Json, Kubernetes, stamp

from rewarm_operator import actions as a
from rewarm_operator import trim
from rewarm_operator.observed import Heartbeat, Observed, Registry
from rewarm_operator.reconcile import decide
from rewarm_operator.settings import Settings

__all__ = ["MANIFEST", "SETTINGS", "START", "Conflict", "World", "merged", "stamp"]

MANIFEST = """
apiVersion: rewarm.dev/v1alpha1
kind: ContinualRun
metadata: {name: llama, namespace: research}
spec:
  baseModel: {huggingFace: {repo: meta-llama/Llama-3.2-1B, revision: "4e20de362430cd3b72f300e6b0f18e50e7166e08"}}
  corpus: {sources: [{name: pubmed, uri: "s3://corpora/pubmed/*.parquet", license: CC0-1.0}]}
  replay: {ratio: 0.25, sources: [{name: general, uri: "claim://texts/general/*.jsonl", license: CC0-1.0}]}
  schedule: {peakLearningRate: 0.0003}
  budget: {tokens: 2M}
  training: {sequenceLength: 64, globalBatchTokens: 1024}
  gates: {maxForgetting: 0.02}
  checkpoints: {uri: "s3://runs/llama/"}
  credentials: [{secret: s3-credentials}]
  compute: {nodes: 2, gpusPerNode: 0}
"""
SETTINGS = Settings(
    trainer_image="rewarm-trainer:1",
    progress_url="https://rewarm.rewarm-system.svc:8443",
    progress_ca="-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
)
START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


class Conflict(Exception):
    """409: the object has changed since it was read, or the name is taken by somebody else."""


class Crash(Exception):
    """The operator died here."""


def merged(target: Json, patch: Json) -> Json:
    """RFC 7386."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            old = result.get(key)
            result[key] = merged(old if isinstance(old, dict) else {}, value)
        else:
            result[key] = value
    return result


class World(Kubernetes):
    """See the module."""

    def __init__(self, manifest: str | Json = MANIFEST, settings: Settings = SETTINGS, **changes: Any) -> None:
        super().__init__()
        run = yaml.safe_load(manifest) if isinstance(manifest, str) else copy.deepcopy(manifest)
        for path, value in changes.items():
            node = run["spec"]
            *parents, last = path.split("__")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        run["metadata"] |= {"uid": "run-uid", "generation": 1, "creationTimestamp": stamp(START)}
        self.settings = settings
        self.now = START
        self.run: Json | None = run
        self._touch(run)
        self.config_map: Json | None = None
        self.service: Json | None = None
        self.jobs: dict[str, Json] = {}
        self.pods: dict[str, Json] = {}
        self.workloads: dict[str, Json] = {}
        self.events: list[a.Emit] = []
        self.tracks: list[a.Track] = []
        self.writes: list[a.Action] = []
        self.posted: list[str] = []
        self.heartbeat: Heartbeat | None = None
        self.registry = Registry()
        self.mlflow_is_away = False
        self.aliases: dict[str, str] = {}
        self.missing_versions: set[str] = set()
        self.promoted_before: set[str] = set()
        self.kueue_installed = False
        self.seen_jobs: set[str] = set()
        self.foreign: set[str] = set()
        self.collisions: dict[str, None] = {}
        self.last_status_patch: datetime | None = None
        self.leading_since = START - timedelta(hours=1)
        self.listed: dict[str, datetime] = {}

    # -- what the operator sees and does -------------------------------------------------------------------------------

    def observed(self) -> Observed:
        assert self.run is not None
        objects = (self.run, self.config_map, self.service, *map(list, self._lists()))
        run, config_map, service, jobs, pods, workloads = json.loads(json.dumps(objects))
        return Observed(
            run=trim.run(run),
            now=self.now,
            config_map=config_map and trim.config_map(config_map),
            service=service and trim.service(service),
            jobs=tuple(map(trim.job, jobs)),
            seen_jobs=frozenset(self.seen_jobs),
            pods=tuple(map(trim.pod, pods)),
            listed=dict(self.listed),
            workloads=tuple(map(trim.workload, workloads)),
            kueue_installed=self.kueue_installed,
            collisions=tuple(self.collisions),
            heartbeat=self.heartbeat,
            registry=self.registry,
            leading_since=self.leading_since,
            last_status_patch=self.last_status_patch,
        )

    def _lists(self) -> Iterator[Iterable[Json]]:
        for named in (self.jobs, self.pods, self.workloads):
            yield named.values()

    def decide(self) -> a.Decision:
        return decide(self.observed(), self.settings)

    def step(self, *, crash_after: int | None = None) -> a.Decision:
        """One visit. `crash_after`: die after that many of its actions."""
        decision = self.decide()
        for count, action in enumerate(decision.actions):
            if crash_after is not None and count >= crash_after:
                raise Crash
            self.execute(action)
        return decision

    def settle(self, limit: int = 30) -> None:
        """Visit until nothing is written any more."""
        for _ in range(limit):
            if self.run is None:
                return
            before = (len(self.writes), self.registry, dict(self.listed))
            self.step()
            if (len(self.writes), self.registry, self.listed) == before:
                return
        raise AssertionError(f"never settles: {self.writes[-6:]}")

    def execute(self, action: a.Action) -> None:
        assert self.run is not None
        match action:
            case a.SetFinalizer(present):
                self.writes.append(action)
                self.run["metadata"]["finalizers"] = ["rewarm.dev/run"] if present else []
                self._touch(self.run)
                if not present and self.run["metadata"].get("deletionTimestamp"):
                    self.run = None
            case a.PatchStatus(changes, version):
                assert changes, "an empty patch"
                if version and version != self.run["metadata"]["resourceVersion"]:
                    raise Conflict
                self.writes.append(action)
                self.run["status"] = merged(self.run.get("status", {}), copy.deepcopy(dict(changes)))
                self._touch(self.run)
                self.last_status_patch = self.now
                check_status(self.run["status"])
            case a.Create(body):
                self._create(json.loads(json.dumps(body)), action)
            case a.DeleteJob(name, uid):
                job = self.jobs.get(name)
                # With another uid the precondition fails: the Job that was meant is gone already.
                if job is not None and job["metadata"]["uid"] == uid:
                    self.writes.append(action)
                    self.delete_job(name)
            case a.ListPods(job):
                self.listed[job] = self.now
            case a.Annotate(changes):
                self.writes.append(action)
                self.run["metadata"] = merged(self.run["metadata"], {"annotations": dict(changes)})
                self._touch(self.run)
            case a.Emit():
                self.events.append(action)
            case a.Track():
                self.tracks.append(action)
                self._track(action)
            case _:
                raise AssertionError(f"not expected: {action}")

    def _create(self, body: Json, action: a.Create) -> None:
        kind, name = body["kind"], body["metadata"]["name"]
        places = {"ConfigMap": "config_map", "Service": "service"}
        known = getattr(self, places[kind]) if kind in places else self.jobs.get(name)
        if f"{kind}/{name}" in self.foreign:
            self.collisions[f"{kind}/{name}"] = None
            raise Conflict
        self.collisions.pop(f"{kind}/{name}", None)
        if known is not None:
            return
        self.writes.append(action)
        self.posted.append(name)
        body["metadata"] |= {"uid": f"uid-{next(self._uids)}", "creationTimestamp": stamp(self.now), "generation": 1}
        body["status"] = {}
        if kind == "Job" and self.kueue_installed and "kueue.x-k8s.io/queue-name" in body["metadata"]["labels"]:
            body["spec"]["suspend"] = True
        self._touch(body)
        if kind in places:
            setattr(self, places[kind], body)
        else:
            self.jobs[name] = body
            self.seen_jobs.add(name)

    def _track(self, track: a.Track) -> None:
        if self.mlflow_is_away:
            self.registry = replace(self.registry, problem="MLflow at http://mlflow does not answer")
            return
        known = replace(self.registry, run_id="mlflow-run", url="http://mlflow/#/runs/mlflow-run", problem="")
        if track.source and not track.version and not known.model_version:
            known = replace(known, model_version="7")
        if track.alias:
            version = track.version or known.model_version
            if version in self.promoted_before and not track.ask:
                known = replace(known, promoted_alias=track.alias, promoted_version=self.aliases.get(track.alias, ""))
            elif version in self.missing_versions:
                known = replace(known, promoted_alias="", promoted_version="", answered=track.ask)
            else:
                self.aliases[track.alias] = version
                known = replace(known, promoted_alias=track.alias, promoted_version=version, answered=track.ask)
        self.registry = replace(known, ended=track.end or known.ended)

    def restart(self) -> None:
        """A new operator process: what only memory knew is gone."""
        self.heartbeat, self.registry, self.last_status_patch = None, Registry(), None
        self.leading_since = self.now
        self.seen_jobs = set(self.jobs)
        self.listed = {}

    # -- shorthands ----------------------------------------------------------------------------------------------------

    @property
    def status(self) -> Json:
        assert self.run is not None
        found: Json = self.run.get("status", {})
        return found

    def condition(self, kind: str) -> Json:
        return next(c for c in self.status["conditions"] if c["type"] == kind)

    def told(self, kind: str) -> tuple[str, str]:
        found = self.condition(kind)
        return found["status"], found["reason"]

    def event_reasons(self) -> list[str]:
        return [event.reason for event in self.events]

    def causes(self) -> list[str | None]:
        return [entry.get("cause") for entry in self.status.get("attempts", [])]

    def live_jobs(self) -> Iterator[str]:
        """Jobs without a final word."""
        for name, job in self.jobs.items():
            if not {c["type"] for c in job["status"].get("conditions", [])} & {"Complete", "Failed"}:
                yield name

    def start(self, *, running: bool = True) -> None:
        """From nothing to attempt 1, running."""
        self.settle()
        name = next(n for n in self.jobs if n.endswith("-prepare"))
        self.schedule(name)
        self.settle()
        self.succeed(name)
        self.settle()
        attempt = next(n for n in self.jobs if n.endswith("-a1"))
        self.schedule(attempt, running=running)
        self.settle()


def check_status(status: Json) -> None:
    """What the CRD would refuse is refused here too."""
    from rewarm_api.status import RunStatus

    RunStatus.model_validate(status)
