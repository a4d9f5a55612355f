"""What the executor makes of each answer of an API server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from memory_cluster import MemoryCluster, merged

from rewarm_operator import moments
from rewarm_operator.actions import Annotate, Create, DeleteJob, Emit, ListPods, PatchStatus, SetFinalizer
from rewarm_operator.cluster import ApiError, Unreachable
from rewarm_operator.executor import Executor, Refused
from rewarm_operator.queue import Again
from rewarm_operator.resources import CONFIG_MAP, JOB, POD, RUN
from rewarm_operator.store import Store

KEY = ("team", "llama")


class Told:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def emit(self, run: Any, event: Emit) -> None:
        self.reasons.append(event.reason)


class World:
    """A run in an API server in memory, and the store and the executor over it."""

    def __init__(self) -> None:
        self.cluster, self.told, self.changes = MemoryCluster(), Told(), []
        self.store = Store(self.changes.append)
        run = {"metadata": {"name": "llama", "finalizers": ["other/one"]}, "spec": {}}
        self.run = self.cluster.put(RUN, "team", run)
        self.uid = self.run["metadata"]["uid"]
        self.store.put("ContinualRun", self.run)
        self.executor = Executor(self.cluster, self.store, self.told, lambda uid, track: None)

    def do(self, *actions: Any) -> None:
        asyncio.run(self.executor.execute(KEY, actions))

    def body(self, kind: str = "ConfigMap", owner: str = "") -> dict[str, Any]:
        labels, owners = {"rewarm.dev/run-uid": self.uid}, [{"kind": "ContinualRun", "uid": owner or self.uid}]
        return {"kind": kind, "metadata": {"name": "llama", "labels": labels, "ownerReferences": owners}}

    def there(self) -> dict[str, Any]:
        return self.cluster.objects["ContinualRun", "team", "llama"]


@pytest.fixture
def world() -> World:
    return World()


def test_the_finalizer_goes_beside_those_of_others(world):
    world.do(SetFinalizer(), SetFinalizer())
    assert world.there()["metadata"]["finalizers"] == ["other/one", "rewarm.dev/run"]
    assert len(world.cluster.log) == 1
    world.do(SetFinalizer(present=False))
    assert world.there()["metadata"]["finalizers"] == ["other/one"]


def test_a_finalizer_of_somebody_else_is_never_lost(world):
    metadata = {"name": "llama", "finalizers": ["other/one", "other/two"]}
    world.cluster.put(RUN, "team", {"metadata": metadata, "spec": {}})
    with pytest.raises(Again):
        world.do(SetFinalizer())
    assert world.there()["metadata"]["finalizers"] == ["other/one", "other/two"]
    world.do(SetFinalizer())
    assert world.there()["metadata"]["finalizers"] == ["other/one", "other/two", "rewarm.dev/run"]


def test_a_status_on_an_old_version_is_decided_again_on_the_new_one(world):
    version = world.run["metadata"]["resourceVersion"]
    world.cluster.put(RUN, "team", {"metadata": {"name": "llama"}, "spec": {"edited": True}})
    with pytest.raises(Again):
        world.do(PatchStatus({"snapshotDigest": "x"}, version), Emit("Normal", "Never", ""))
    assert world.store.runs[KEY]["spec"] == {"edited": True}
    assert "status" not in world.there()
    assert world.told.reasons == []


def test_what_was_written_is_known_before_any_watch_tells_it(world):
    world.do(PatchStatus({"summary": "Training"}), Annotate({"a": "b"}), Create(world.body()))
    assert world.store.runs[KEY]["status"] == {"summary": "Training"}
    assert world.store.runs[KEY]["metadata"]["annotations"] == {"a": "b"}
    assert world.store.child(world.uid, "ConfigMap", "llama") is not None


FULL = {"summary": "Training", "evaluation": [1], "gates": [2], "counts": {"attempts": 2}}


def refuse(*fields: str) -> ApiError:
    return ApiError(422, "Invalid", "is invalid", fields=fields)


def test_a_status_that_is_refused_in_part_is_written_without_that_part(world):
    world.cluster.failures = [refuse("status.evaluation[0].loss", "status.counts")]
    world.do(PatchStatus(FULL), Create(world.body()))
    assert world.there()["status"] == {name: FULL[name] for name in ("summary", "gates", "counts")}
    assert ("ConfigMap", "team", "llama") in world.cluster.objects
    assert world.store.observe(KEY, None).unwritten == ("evaluation",)


def test_of_a_status_that_is_refused_for_no_named_part_only_what_is_needed_is_written(world):
    world.cluster.failures = [refuse("<nil>")]
    world.do(PatchStatus(FULL), Emit("Normal", "Next", ""))
    assert world.there()["status"] == {"counts": {"attempts": 2}}
    assert world.told.reasons == ["Next"]


def test_what_was_refused_is_sent_again_only_when_it_has_changed(world):
    world.cluster.failures = [refuse("status.evaluation")]
    world.do(PatchStatus(FULL))
    writes = len(world.cluster.log)
    world.do(PatchStatus({"evaluation": [1]}))
    assert len(world.cluster.log) == writes
    world.do(PatchStatus({"evaluation": [2]}))
    assert world.there()["status"]["evaluation"] == [2]
    assert world.store.observe(KEY, None).unwritten == ()


def test_without_what_is_needed_nothing_is_done(world):
    world.cluster.failures = [refuse("status.counts"), refuse("status.counts")]
    with pytest.raises(Again):
        world.do(PatchStatus(FULL), Create(world.body()))
    assert "status" not in world.there()
    assert ("ConfigMap", "team", "llama") not in world.cluster.objects


def test_an_empty_status_is_not_written(world):
    world.do(PatchStatus({}))
    assert world.cluster.log == []


def test_what_is_there_already_and_ours_is_success(world):
    world.cluster.put(CONFIG_MAP, "team", world.body())
    world.do(Create(world.body()), Emit("Normal", "Next", ""))
    assert world.told.reasons == ["Next"]
    assert world.store.child(world.uid, "ConfigMap", "llama") is not None


def test_what_is_there_and_somebody_elses_is_a_collision_until_it_goes(world):
    world.cluster.put(CONFIG_MAP, "team", world.body(owner="somebody"))
    with pytest.raises(Refused):
        world.do(Create(world.body()), Emit("Normal", "Never", ""))
    assert world.store.observe(KEY, None).collisions == ("ConfigMap/llama",)
    del world.cluster.objects["ConfigMap", "team", "llama"]
    world.do(Create(world.body()))
    assert world.store.observe(KEY, None).collisions == ()


@pytest.mark.parametrize(("age", "collides"), [(timedelta(seconds=5), False), (timedelta(minutes=2), True)])
def test_what_a_deleted_run_of_the_same_name_left_behind_is_waited_for(world, age, collides):
    made = moments.written(datetime.now(UTC) - age)
    world.store.put(
        "ContinualRun",
        world.cluster.put(RUN, "team", {"metadata": {"name": "llama", "creationTimestamp": made}, "spec": {}}),
    )
    left = world.body(owner="the-run-before")
    left["metadata"]["ownerReferences"][0]["name"] = "llama"
    world.cluster.put(CONFIG_MAP, "team", left)
    with pytest.raises(Again) as caught:
        world.do(Create(world.body()))
    assert isinstance(caught.value, Refused) is collides
    assert world.store.observe(KEY, None).collisions == (("ConfigMap/llama",) if collides else ())
    del world.cluster.objects["ConfigMap", "team", "llama"]
    world.do(Create(world.body()))
    assert world.store.observe(KEY, None).collisions == ()


@pytest.mark.parametrize("status", [403, 422])
def test_what_is_refused_is_told_until_it_is_taken(world, status):
    world.cluster.failures = [ApiError(status, "Forbidden", "exceeded quota")]
    with pytest.raises(Refused):
        world.do(Create(world.body()))
    assert world.store.observe(KEY, None).refused == {"ConfigMap/llama": "exceeded quota"}
    world.do(Create(world.body()))
    assert world.store.observe(KEY, None).refused == {}


def test_retry_after_is_handed_on(world):
    world.cluster.failures = [ApiError(429, "TooManyRequests", "slow down", retry_after=7)]
    with pytest.raises(Again) as caught:
        world.do(Create(world.body()))
    assert caught.value.after == 7


def test_after_an_answer_that_never_came_the_run_is_read_again(world):
    world.cluster.failures = [Unreachable("lost")]
    with pytest.raises(Again):
        world.do(PatchStatus({"summary": "Training"}))
    # It was done all the same, and somebody has edited the run since.
    world.cluster.put(RUN, "team", {"metadata": {"name": "llama"}, "spec": {}, "status": {"summary": "Training"}})
    asyncio.run(world.executor.refresh(KEY))
    assert world.store.runs[KEY]["status"] == {"summary": "Training"}


def test_only_the_job_that_was_meant_is_deleted(world):
    job = world.cluster.put(JOB, "team", world.body("Job"))
    world.store.put("Job", job)
    world.do(DeleteJob("llama", "another-uid"))
    assert ("Job", "team", "llama") in world.cluster.objects
    world.do(DeleteJob("llama", job["metadata"]["uid"]), DeleteJob("llama", job["metadata"]["uid"]))
    assert world.store.child(world.uid, "Job", "llama") is None


def test_a_job_whose_deletion_meets_a_conflict_is_not_taken_for_gone(world):
    job = world.cluster.put(JOB, "team", world.body("Job"))
    world.store.put("Job", job)
    world.cluster.failures.append(ApiError(409, "Conflict", "somebody was writing it"))
    with pytest.raises(Again, match="Job/llama is not deleted: somebody was writing it"):
        world.do(DeleteJob("llama", job["metadata"]["uid"]))
    assert world.store.child(world.uid, "Job", "llama") is not None
    world.do(DeleteJob("llama", job["metadata"]["uid"]))
    assert ("Job", "team", "llama") not in world.cluster.objects
    assert world.store.child(world.uid, "Job", "llama") is None


def test_a_run_that_goes_in_the_middle_ends_the_list(world):
    del world.cluster.objects["ContinualRun", "team", "llama"]
    with pytest.raises(Again):
        world.do(PatchStatus({"summary": "Training"}))
    assert world.store.runs == {}


def test_pods_that_are_asked_for_are_seen_as_they_are(world):
    def pod(phase: str, run: str) -> dict[str, Any]:
        metadata = {"name": f"pod-of-{run}", "labels": {"rewarm.dev/run-uid": run}}
        return {"metadata": metadata, "status": {"phase": phase}}

    job = world.cluster.put(JOB, "team", world.body("Job"))
    world.store.put("Job", job)
    world.store.put("Pod", world.cluster.put(POD, "team", pod("Running", world.uid)))
    world.cluster.put(POD, "team", pod("Succeeded", world.uid))
    world.cluster.put(POD, "team", pod("Succeeded", "another"))
    world.do(ListPods(job["metadata"]["uid"]))
    observed = world.store.observe(KEY, datetime.now(UTC))
    assert [each["status"]["phase"] for each in observed.pods] == ["Succeeded"]
    assert set(observed.listed) == {job["metadata"]["uid"]}
    assert world.store.pods("another") == []


def test_when_pods_were_asked_for_is_forgotten_with_their_job(world):
    jobs = [world.cluster.put(JOB, "team", merged(world.body("Job"), {"metadata": {"name": n}})) for n in "ab"]
    for job in jobs:
        world.store.put("Job", job)
    world.do(ListPods(jobs[0]["metadata"]["uid"]))
    world.store.remove("Job", jobs[0])
    world.do(ListPods(jobs[1]["metadata"]["uid"]))
    assert set(world.store.observe(KEY, datetime.now(UTC)).listed) == {jobs[1]["metadata"]["uid"]}
