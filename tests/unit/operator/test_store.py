"""The store: the newest version wins whoever brings it, what is gone stays gone, and every change is told once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from operator_world import World

from rewarm_api.reported import Report
from rewarm_operator import pods, trim
from rewarm_operator.last_words import KEPT_SECONDS
from rewarm_operator.observed import Heartbeat, Registry
from rewarm_operator.store import Key, Store

NOW = datetime(2026, 11, 21, tzinfo=UTC)
KEY = ("team", "llama")


def run(version: int = 1, uid: str = "u1", **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "team", "name": "llama", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata | {"managedFields": [{"manager": "x"}]}, "spec": {}, "status": status}


def child(kind: str, name: str, version: int = 1, *, uid: str = "", owner: str = "u1", **more: Any) -> dict[str, Any]:
    metadata = {"namespace": "team", "name": name, "uid": uid or f"{kind}-{name}", "resourceVersion": str(version)}
    metadata |= {"labels": {"rewarm.dev/run-uid": "u1"}, "ownerReferences": [{"kind": "X", "uid": owner}]}
    return {"metadata": metadata, **more}


@pytest.fixture
def told() -> list[Key]:
    return []


@pytest.fixture
def store(told: list[Key]) -> Store:
    store = Store(told.append)
    store.put("ContinualRun", run())
    told.clear()
    return store


def test_an_older_version_changes_nothing(store, told):
    store.put("ContinualRun", run(10, phase="new"))
    store.put("ContinualRun", run(9, phase="old"))
    store.put("ContinualRun", run(10, phase="same"))
    assert store.runs[KEY]["status"] == {"phase": "new"}
    assert told == [KEY]


def test_versions_are_numbers_not_text(store):
    store.put("ContinualRun", run(9))
    store.put("ContinualRun", run(10, phase="new"))
    assert store.runs[KEY]["status"] == {"phase": "new"}


def test_a_late_answer_brings_nothing_back(store):
    store.remove("ContinualRun", run(5))
    store.put("ContinualRun", run(6))
    assert store.observe(KEY, NOW) is None


def test_a_job_that_is_gone_was_seen(store):
    store.put("Service", child("Service", "llama"))
    for owner in ("u1", "somebody"):
        store.put("Job", child("Job", f"of-{owner}", owner=owner))
        store.remove("Job", child("Job", f"of-{owner}", owner=owner))
    assert store.observe(KEY, NOW).seen_jobs == {"of-u1"}


def test_a_run_made_again_under_its_name_is_another_one(store):
    store.refused("u1", "Job/llama-a1", "quota")
    store.put("ContinualRun", run(20, uid="u2"))
    observed = store.observe(KEY, NOW)
    assert observed is not None
    assert observed.refused == {}
    store.remove("ContinualRun", run(21, uid="u1"))
    assert store.observe(KEY, NOW) is not None


def test_children_are_observed_by_uid_and_only_owned_ones(store, told):
    store.put("Job", child("Job", "llama-a1", spec={"completions": 2, "template": {"huge": 1}}))
    store.put("Job", child("Job", "stranger", owner="other"))
    store.put("ConfigMap", child("ConfigMap", "llama", data={"snapshot.json": "{}"}))
    store.put("Service", child("Service", "llama", owner="other"))
    store.put("Pod", child("Pod", "llama-a1-0", owner="Job-llama-a1"))
    observed = store.observe(KEY, NOW)
    assert observed is not None
    assert [job["metadata"]["name"] for job in observed.jobs] == ["llama-a1"]
    assert observed.jobs[0]["spec"] == {"completions": 2}
    assert observed.config_map is not None
    assert observed.service is None
    assert len(observed.pods) == 1
    assert told == [KEY] * 5
    store.remove("Job", child("Job", "llama-a1"))
    observed = store.observe(KEY, NOW)
    assert observed is not None
    assert observed.jobs == ()


def test_a_job_made_again_is_not_removed_by_the_old_ones_end(store):
    store.put("Job", child("Job", "llama-prepare", 1, uid="old"))
    store.put("Job", child("Job", "llama-prepare", 5, uid="new"))
    store.remove("Job", child("Job", "llama-prepare", 6, uid="old"))
    observed = store.observe(KEY, NOW)
    assert observed is not None
    assert [job["metadata"]["uid"] for job in observed.jobs] == ["new"]


def test_children_that_come_before_their_run_are_there_when_it_comes(told):
    store = Store(told.append)
    store.put("Job", child("Job", "llama-a1"))
    assert told == []
    store.put("ContinualRun", run())
    observed = store.observe(KEY, NOW)
    assert observed is not None
    assert len(observed.jobs) == 1


def test_workloads_belong_to_the_run_of_their_job(store, told):
    workload = child("Workload", "job-llama-a1", uid="w")
    workload["metadata"] |= {"labels": {}, "ownerReferences": [{"kind": "Job", "uid": "Job-llama-a1"}]}
    store.put("Workload", workload)
    assert told == []
    store.put("Job", child("Job", "llama-a1"))
    observed = store.observe(KEY, NOW)
    assert observed is not None
    assert [item["metadata"]["name"] for item in observed.workloads] == ["job-llama-a1"]
    store.put("Workload", {**workload, "metadata": {**workload["metadata"], "resourceVersion": "2"}})
    assert told == [KEY, KEY]
    store.remove("Workload", workload)
    observed = store.observe(KEY, NOW)
    assert observed is not None
    assert observed.workloads == ()


def test_what_no_object_says_is_told_once_and_only_of_runs_that_exist(store, told):
    store.collided("u1", "Service/llama", True)
    store.collided("u1", "Service/llama", True)
    store.refused("u1", "Job/llama-a1", "quota")
    store.tracked("u1", Registry(run_id="m"))
    store.tracked("u1", Registry(run_id="m"))
    store.heard("u1", Heartbeat(1, "p", NOW, Report()))
    store.collided("gone", "Service/x", True)
    store.heard("gone", Heartbeat(1, "p", NOW, Report()))
    assert told == [KEY] * 4
    observed = store.observe(KEY, NOW)
    assert observed is not None
    assert observed.collisions == ("Service/llama",)
    assert observed.refused == {"Job/llama-a1": "quota"}
    assert observed.registry.run_id == "m"
    store.collided("u1", "Service/llama", False)
    store.refused("u1", "Job/llama-a1", "")
    observed = store.observe(KEY, NOW)
    assert observed is not None
    assert (observed.collisions, observed.refused) == ((), {})
    assert store.registry("gone") is None


def test_nothing_of_a_deleted_run_stays(store):
    store.put("Job", child("Job", "llama-a1"))
    store.heard("u1", Heartbeat(1, "p", NOW, Report()))
    store.remove("Job", child("Job", "llama-a1"))
    store.remove("ContinualRun", run(9))
    assert (store.runs, store._children, store._known, store._place_of, store._owner_of_job) == ({}, {}, {}, {}, {})


def pod(name: str, version: int = 1, phase: str = "Running", code: int | None = None) -> dict[str, Any]:
    made = child("Pod", name, version, owner="j1")
    made["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": "0"}
    state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
    return made | {"status": {"phase": phase, "containerStatuses": [{"name": "trainer", "state": state}]}}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def codes(store: Store) -> list[int | None]:
    observed = store.observe(KEY, NOW)
    assert observed is not None
    return [None if (end := pods.ended(each)) is None else end.code for each in observed.pods]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(clock: Clock) -> Store:
    store = Store(lambda key: None, clock)
    store.put("ContinualRun", run())
    return store


def test_how_a_deleted_pod_ended_is_known_for_a_while(timed, clock):
    timed.put("Pod", pod("a", 1))
    timed.remove("Pod", pod("a", 3, "Failed", 143))  # the deletion itself is the first to tell
    assert codes(timed) == [143]
    assert timed.pods("u1") == []
    assert timed.versions("Pod", None) == {}
    clock.now = KEPT_SECONDS
    assert codes(timed) == []


def test_a_deletion_without_the_end_does_not_hide_what_was_seen_of_it(timed):
    timed.put("Pod", pod("a", 2, "Failed", 65))
    timed.remove("Pod", {"metadata": pod("a", 2)["metadata"]})
    assert codes(timed) == [65]


def test_a_pod_that_was_deleted_without_an_end_is_gone(timed):
    timed.put("Pod", pod("a", 1))
    timed.remove("Pod", pod("a", 2))
    assert codes(timed) == []


def test_a_new_pod_in_its_place_ends_the_interest_in_the_old_one(timed):
    timed.put("Pod", pod("a", 1))
    timed.remove("Pod", pod("a", 2, "Failed", 143))
    timed.put("Pod", pod("b", 3))
    assert codes(timed) == [None]
    timed.put("Pod", pod("c", 4))
    timed.remove("Pod", pod("b", 5, "Failed", 1))  # the newer one came first
    assert codes(timed) == [None]


def test_deleted_pods_take_no_memory_for_long(timed, clock):
    for number in range(3):
        timed.put("ContinualRun", {**run(uid=f"u{number}"), "metadata": _metadata_of(number)})
        ended = pod("a", 2, "Failed", 1)
        ended["metadata"] |= {"uid": f"p{number}", "labels": {"rewarm.dev/run-uid": f"u{number}"}}
        timed.put("Pod", ended)
        timed.remove("Pod", ended)
        clock.now += KEPT_SECONDS
    assert list(timed._last_words._runs) == ["u2"]
    timed.remove("ContinualRun", {"metadata": _metadata_of(2)})
    assert not timed._last_words._runs


def _metadata_of(number: int) -> dict[str, Any]:
    return {**run()["metadata"], "name": f"run-{number}", "uid": f"u{number}"}


def test_what_others_keep_with_a_run_takes_no_memory(store):
    applied = run(2)
    applied["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
        "rewarm.dev/promote": "true",
    }
    store.put("ContinualRun", applied)
    assert "managedFields" not in store.runs[KEY]["metadata"]
    assert store.runs[KEY]["metadata"]["annotations"] == {"rewarm.dev/promote": "true"}
    assert len(applied["metadata"]["annotations"]) == 2


def test_trimming_what_is_trimmed_changes_nothing():
    world = World()
    world.settle()
    world.succeed_prepare()
    world.settle()
    world.start()
    whole = {"ContinualRun": [world.run], "Job": world.jobs.values(), "Pod": world.pods.values()}
    whole |= {"ConfigMap": [world.config_map], "Service": [world.service]}
    for kind, objects in whole.items():
        assert objects, kind
        for item in objects:
            once = trim.TRIMMERS[kind](item)
            assert trim.TRIMMERS[kind](once) == once
            assert trim.identity(once) == trim.identity(item)
