"""A run from its manifest to its verdict, by a real operator, a real API server and the real Job controller."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from operator_process import (
    Kubelet,
    Place,
    condition,
    counts,
    operator_kubeconfig,
    prepare_only,
    role,
    succeed,
    workloads,
)
from real_cluster import needs_control_plane

from rewarm_operator.actions import PatchStatus
from rewarm_operator.cluster import Access, HttpCluster
from rewarm_operator.executor import Executor
from rewarm_operator.recorder import EventRecorder
from rewarm_operator.store import Store

pytestmark = [pytest.mark.slow, needs_control_plane("jobs")]

FINALIZER = "rewarm.dev/run"


def test_a_run_comes_to_its_end(place: Place):
    path = place.submit()
    with place.kubelet(), place.operator():
        run = place.finished(path)
    assert condition(run, "Succeeded") == ("True", "NoGates")
    assert counts(run) == (1, 0, 0)
    assert [item["cause"] for item in run["status"]["attempts"]] == ["Completed"]
    assert run["status"]["checkpoint"]["step"] == 64
    assert run["metadata"]["finalizers"] == [FINALIZER]
    assert "kopf" not in str(run["metadata"])
    assert place.jobs_made() == ["run-a1", "run-prepare"]
    events = place.api.get(f"/api/v1/namespaces/{place.namespace}/events")["items"]
    told = {event["reason"] for event in events if event["involvedObject"]["kind"] == "ContinualRun"}
    assert "AttemptStarted" in told


def test_a_failure_makes_a_new_attempt(place: Place):
    path = place.submit()

    def fails_once(pod):
        if role(pod) == "prepare" or pod["metadata"]["labels"]["rewarm.dev/attempt"] != "1":
            return (0, "")
        return (70, "a bug")

    with place.kubelet(fails_once), place.operator():
        run = place.finished(path)
    assert counts(run) == (2, 1, 0)
    assert [item["cause"] for item in run["status"]["attempts"]] == ["Unknown", "Completed"]


def test_an_invalid_spec_waits_until_it_is_mended(place: Place):
    # Valid for the API server, which cannot add up epochs and lengths; not for the operator.
    path = place.submit(spec__budget="{epochs: 1}", spec__schedule="{peakLearningRate: 1e-3, warmup: 120%}")
    with place.kubelet(prepare_only), place.operator():
        run = place.api.wait(path, lambda run: condition(run, "SpecValid")[0] == "False")
        assert place.job_names() == []
        assert "snapshotDigest" not in run["status"]
        place.edit(path, {"spec": {"schedule": {"warmup": "1%"}}})
        run = place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
    assert condition(run, "SpecValid")[0] == "True"


def test_suspending_ends_the_attempt_and_resuming_makes_a_new_one(place: Place):
    path = place.submit()
    with place.kubelet(prepare_only), place.operator():
        place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
        place.edit(path, {"spec": {"suspend": True}})
        run = place.api.wait(path, lambda run: condition(run, "Suspended")[0] == "True")
        place.api.wait(f"{place.jobs}/run-a1", lambda job: job is None)
        assert run["status"]["attempts"][0].get("cause") in (None, "Suspended")
        place.edit(path, {"spec": {"suspend": False}})
        run = place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
    assert place.job_names() == ["run-a2", "run-prepare"]
    assert counts(run) == (2, 0, 0)
    assert [item.get("cause") for item in run["status"]["attempts"]] == ["Suspended", None]


def test_deleting_ends_the_pods_and_then_the_run(place: Place):
    path = place.submit()
    with place.kubelet(prepare_only), place.operator():
        place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
        assert place.api.call("DELETE", path)[0] == 200
        place.api.wait(path, lambda run: run is None)
        place.api.wait(f"{place.jobs}/run-a1", lambda job: job is None)
    deletes = [request for request in place.proxy.changes if request.method == "DELETE"]
    assert all(request.body["propagationPolicy"] == "Background" for request in deletes)
    assert all(request.body["preconditions"]["uid"] for request in deletes)


def test_a_run_deleted_while_no_operator_is_there_goes_when_one_comes(place: Place):
    path = place.submit()
    with place.kubelet(prepare_only):
        with place.operator():
            place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
        assert place.api.call("DELETE", path)[0] == 200
        place.api.wait(path, lambda run: run is not None and "deletionTimestamp" in run["metadata"])
        with place.operator():
            place.api.wait(path, lambda run: run is None)


def test_a_name_that_somebody_else_has_is_a_condition_and_no_end(place: Place):
    services = f"/api/v1/namespaces/{place.namespace}/services"
    foreign = {"metadata": {"name": "run"}, "spec": {"ports": [{"port": 80}]}}
    assert place.api.call("POST", services, foreign)[0] == 201
    path = place.submit()
    with place.kubelet(), place.operator():
        run = place.api.wait(path, lambda run: condition(run, "Stalled")[0] == "True")
        assert condition(run, "Stalled")[1] == "NameCollision"
        assert place.api.get(f"{services}/run")["spec"]["ports"][0]["port"] == 80
        assert place.api.call("DELETE", f"{services}/run")[0] == 200
        run = place.finished(path, within_s=120)
    assert condition(run, "Succeeded")[0] == "True"
    assert condition(run, "Stalled")[0] == "False"


def test_what_a_deleted_run_of_the_same_name_left_behind_is_no_collision(place: Place):
    services = f"/api/v1/namespaces/{place.namespace}/services"
    owner = {"apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun", "name": "run", "uid": "the-run-before"}
    metadata = {"name": "run", "ownerReferences": [owner], "finalizers": ["test.example.org/hold"]}
    assert place.api.call("POST", services, {"metadata": metadata, "spec": {"ports": [{"port": 80}]}})[0] == 201
    path = place.submit()
    with place.kubelet(prepare_only), place.operator() as operator:
        tried = f"POST {services}/run"
        place.proxy.wait(lambda: [str(request) for request in place.proxy.writes].count(tried) > 1)
        assert condition(place.api.get(path), "Stalled") != ("True", "NameCollision")
        place.edit(f"{services}/run", {"metadata": {"finalizers": None}})
        place.api.call("DELETE", f"{services}/run")
        place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
    assert "is not of this run" not in operator.log.read_text()


def test_what_the_schema_refuses_of_a_status_is_left_out_of_it(place: Place, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(place.kubeconfig))
    path = place.submit()
    status = {"summary": "Dozing", "gates": [{"name": "g"}] * 17, "learningRate": 0.5, "counts": {"attempts": 1}}
    store = Store(lambda key: None)
    store.put("ContinualRun", place.api.get(path))

    async def write() -> None:
        cluster = HttpCluster(await Access.load(), lambda: True)
        executor = Executor(cluster, store, EventRecorder(cluster, "test"), lambda uid, track: None)
        await executor.execute((place.namespace, "run"), (PatchStatus(status),))
        await cluster.close()

    asyncio.run(write())
    assert place.api.get(path)["status"] == {"learningRate": 0.5, "counts": {"attempts": 1}}
    (uid,) = (run["metadata"]["uid"] for run in store.runs.values())
    assert store.unwritten(uid) == {"summary": "Dozing", "gates": status["gates"]}


def test_a_quota_that_refuses_is_told_and_waited_for(place: Place):
    quotas = f"/api/v1/namespaces/{place.namespace}/resourcequotas"
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    assert place.api.call("POST", quotas, quota)[0] == 201
    place.api.wait(f"{quotas}/none", lambda found: "hard" in (found or {}).get("status", {}))
    path = place.submit()
    with place.kubelet(), place.operator():
        run = place.api.wait(path, lambda run: condition(run, "Stalled")[0] == "True")
        assert "quota" in str(run["status"]["conditions"])
        assert place.api.call("DELETE", f"{quotas}/none")[0] == 200
        run = place.finished(path, within_s=120)
    assert condition(run, "Succeeded")[0] == "True"


def test_a_queue_without_kueue_does_not_hold_a_run(place: Place):
    path = place.submit(spec__compute="{nodes: 1, gpusPerNode: 0, queue: gpu}")
    with place.kubelet(), place.operator():
        run = place.finished(path)
    assert condition(run, "Admitted") == ("False", "KueueNotInstalled")
    job = place.api.get(f"{place.jobs}/run-a1")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"


def test_kueue_that_is_installed_later_is_noticed(place: Place):
    path = place.submit(spec__compute="{nodes: 1, gpusPerNode: 0, queue: gpu}")
    with place.kubelet(prepare_only), place.operator():
        place.api.wait(path, lambda run: condition(run, "Admitted") == ("False", "KueueNotInstalled"))
        with workloads(place):
            place.api.wait(path, lambda run: condition(run, "Admitted")[1] not in ("", "KueueNotInstalled"))
        place.api.wait(path, lambda run: condition(run, "Admitted") == ("False", "KueueNotInstalled"))


def test_a_cluster_wide_operator_serves_every_namespace(cluster, place: Place):
    kubeconfig = operator_kubeconfig(cluster, place.namespace, place.proxy.url, watch={"clusterWide": True})
    other = cluster.namespace(f"{place.namespace}-other")
    document = place.manifest()
    document["metadata"]["namespace"] = other
    path = f"/apis/rewarm.dev/v1alpha1/namespaces/{other}/continualruns"
    assert cluster.api.call("POST", path, document)[0] == 201
    operator = dataclasses.replace(place, kubeconfig=kubeconfig).operator(namespaces="")
    with Kubelet(cluster, other, succeed), operator:
        run = place.finished(f"{path}/run")
    assert condition(run, "Succeeded") == ("True", "NoGates")
