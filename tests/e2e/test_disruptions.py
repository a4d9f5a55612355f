"""What clusters do to training: processes die, pods are evicted, runs are suspended, the operator comes and goes."""

from __future__ import annotations

from cluster_world import NAMESPACE, PODS, RELEASE, SYSTEM, ClusterWorld, causes, status_of

STEPS = 1500
# Long enough to be disturbed in the middle, with a commit every few seconds.
LONG = {"steps": STEPS, "checkpoints__every": "5%", "replay__maxRepeats": 100, "evaluation__every": "50%"}


def attempt_of(run, number):
    return next(item for item in run["status"]["attempts"] if item["number"] == number)


def first_commit(world: ClusterWorld, name: str, attempt: int = 1):
    """The run once it trains in this attempt, with a checkpoint to come back to."""
    world.wait_training(name, attempt=attempt)
    return world.wait(name, lambda run: (run["status"].get("checkpoint") or {}).get("step", 0) > 0)


def test_a_killed_process_and_an_evicted_pod_cost_one_attempt_each(world: ClusterWorld):
    name = world.submit(world.manifest("disturbed", **LONG))
    first_commit(world, name)
    # Everything in the pod but its first process, which the kernel protects: the wrapper tells how its ranks ended.
    kill = "import os, signal; os.kill(-1, signal.SIGKILL)"
    victim = world.pods(name, 1)[1]["metadata"]["name"]
    world.cluster.kubectl("exec", "-n", NAMESPACE, victim, "-c", "trainer", "--", "python", "-c", kill)
    second = world.wait_training(name, attempt=2)
    assert causes(second)[0] == "Unknown"
    assert attempt_of(second, 2)["firstStep"] > 1
    assert second["status"]["counts"]["failures"] == 1

    evicted = world.pods(name, 2)[0]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": evicted, "namespace": NAMESPACE}}
    status, answer = world.cluster.api.call("POST", f"{PODS}/{evicted}/eviction", eviction)
    assert status == 201, answer
    third = world.wait_training(name, attempt=3)
    assert causes(third)[:2] == ["Unknown", "Evicted"]
    assert third["status"]["counts"]["disruptions"] == 1
    # It had time for a last checkpoint, later than its last report: nothing was trained twice.
    assert attempt_of(third, 3)["firstStep"] > attempt_of(third, 2)["lastStep"]

    ended = world.wait_succeeded(name)
    assert (ended["status"]["progress"]["step"], ended["status"]["counts"]["attempts"]) == (STEPS, 3)


def test_suspending_commits_and_resuming_goes_on_from_there(world: ClusterWorld):
    name = world.submit(world.manifest("paused", **LONG))
    world.wait_training(name, step=20)
    pods = world.pods(name)
    world.cluster.kubectl("patch", "crun", name, "-n", NAMESPACE, "--type=merge", "-p", '{"spec": {"suspend": true}}')
    world.wait(name, lambda run: status_of(run, "Suspended") == "True" and causes(run) == ["Suspended"])
    for pod in pods:
        world.cluster.api.wait(f"{PODS}/{pod['metadata']['name']}", lambda found: found is None)
    # Its last words come with the last commit, after its Job was deleted.
    paused = world.wait(name, lambda run: run["status"]["checkpoint"]["step"] == attempt_of(run, 1)["lastStep"])
    committed = paused["status"]["checkpoint"]["step"]
    folder = f"{NAMESPACE}/{name}/"
    assert any(f"-{committed:08}/" in key for key in world.s3.keys("checkpoints", folder))
    world.cluster.kubectl("patch", "crun", name, "-n", NAMESPACE, "--type=merge", "-p", '{"spec": {"suspend": false}}')
    resumed = world.wait_training(name, attempt=2)
    assert attempt_of(resumed, 2)["firstStep"] == committed + 1
    ended = world.wait_succeeded(name)
    assert causes(ended) == ["Suspended", "Completed"]
    counts = ended["status"]["counts"]
    assert (counts["attempts"], counts["failures"], counts["disruptions"]) == (2, 0, 0)


def test_training_goes_on_while_the_operator_is_deleted_and_upgraded(world: ClusterWorld):
    name = world.submit(world.manifest("alone", **LONG))
    world.wait_training(name)
    uids = [pod["metadata"]["uid"] for pod in world.pods(name)]
    selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=operator"
    world.cluster.kubectl("delete", "pod", "-n", SYSTEM, "-l", selector, "--wait=true")
    world.cluster.kubectl("rollout", "status", f"deployment/{RELEASE}", "-n", SYSTEM, "--timeout=120s")
    world.install("--set", "podAnnotations.upgraded=yes")
    world.cluster.kubectl("rollout", "status", f"deployment/{RELEASE}", "-n", SYSTEM, "--timeout=120s")
    assert [pod["metadata"]["uid"] for pod in world.pods(name)] == uids
    ended = world.wait_succeeded(name)
    assert causes(ended) == ["Completed"]
    assert ended["status"]["counts"]["attempts"] == 1
    assert ended["status"]["progress"]["step"] == STEPS
