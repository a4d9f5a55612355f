"""Reports of trainers: who is believed, by real tokens and the API server's own TokenReview."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from operator_process import OperatorProcess, Place, condition, operator_kubeconfig, prepare_only, role
from progress_posts import REPORT, pod_of, post, resigned, token_of
from real_cluster import needs_control_plane

pytestmark = [pytest.mark.slow, needs_control_plane("jobs")]

# As Pod Security `restricted` wants a pod: the namespace takes no other.
RESTRICTED = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "trainer",
            "image": "localhost/x:1",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}


@pytest.fixture
def operator(place: Place) -> OperatorProcess:
    """With a progress server; not started yet."""
    certificate, key = place.cluster.certificates.server("progress", "progress", ["127.0.0.1"])
    operator_kubeconfig(place.cluster, place.namespace, place.proxy.url, progress={"enabled": True})
    return place.operator(
        progress_url="https://127.0.0.1:8443",
        progress_certificate=str(certificate),
        progress_key=str(key),
        progress_ca_file=str(place.cluster.authority),
    )


@pytest.fixture
def reporting(place: Place, operator: OperatorProcess) -> Iterator[tuple[Place, OperatorProcess, str]]:
    """A run that trains, its operator, and the run's path."""
    path = place.submit()
    with place.kubelet(prepare_only), operator:
        place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
        yield place, operator, path


def test_rank_0_is_believed_and_nobody_else(reporting):
    place, operator, path = reporting
    token = token_of(place, path, pod_of(place))
    assert post(place, operator, token, {"rewarm": REPORT})[0] == 204
    run = place.api.wait(path, lambda run: ((run or {}).get("status", {}).get("progress") or {}).get("step") == 7)
    assert run["status"]["progress"]["tokens"] == 7168

    second = token_of(place, path, pod_of(place, index=1))
    assert post(place, operator, second, {"rewarm": REPORT})[0] == 403
    unbound = place.cluster.token(
        place.namespace, "default", audience=f"rewarm.dev/{place.namespace}/run/{run['metadata']['uid']}"
    )
    assert post(place, operator, unbound, {"rewarm": REPORT})[0] == 401
    elsewhere = token_of(place, path, pod_of(place), "rewarm.dev/other/run/uid")
    assert post(place, operator, elsewhere, {"rewarm": REPORT})[0] == 401
    assert post(place, operator, "made-up", {"rewarm": REPORT})[0] == 401
    assert post(place, operator, token, {"rewarm": REPORT}, run="other")[0] == 401
    stranger = place.api.call(
        "POST",
        f"/api/v1/namespaces/{place.namespace}/pods",
        {
            "metadata": {"name": "stranger", "labels": pod_of(place)["metadata"]["labels"]},
            "spec": RESTRICTED,
        },
    )
    assert stranger[0] == 201
    assert post(place, operator, token_of(place, path, stranger[1]), {"rewarm": REPORT})[0] == 403


def test_expired_altered_and_foreign_tokens_are_turned_away_and_the_other_run_goes_on(reporting):
    place, operator, path = reporting
    neighbour = place.submit("neighbour")
    place.api.wait(neighbour, lambda run: condition(run, "Running")[0] == "True")
    theirs = pod_of(place, run="neighbour")
    own, now, body = token_of(place, path, pod_of(place)), int(time.time()), {"rewarm": REPORT}
    good = f"rewarm.dev/{place.namespace}/neighbour/{place.api.get(neighbour)['metadata']['uid']}"
    # The way of making these is sound: with new times the API server takes such a token.
    assert post(place, operator, resigned(place, own, exp=now + 600), body)[0] == 204
    assert post(place, operator, resigned(place, own, iat=now - 900, nbf=now - 900, exp=now - 300), body)[0] == 401
    assert post(place, operator, own[:-9] + "AAAAAAAAA", body)[0] == 401
    assert post(place, operator, token_of(place, path, theirs, good), body)[0] == 401
    assert post(place, operator, token_of(place, path, theirs), body)[0] == 403
    assert post(place, operator, token_of(place, path, theirs, good), body, run="neighbour")[0] == 204
    place.api.wait(neighbour, lambda run: ((run or {}).get("status", {}).get("progress") or {}).get("step") == 7)


def test_preparation_is_heard_too(place, operator):
    path = place.submit()
    with operator:
        job = f"/apis/batch/v1/namespaces/{place.namespace}/jobs/run-prepare"
        place.api.wait(job, lambda found: bool(found and found.get("status", {}).get("active")))
        (pod,) = place.api.get(f"/api/v1/namespaces/{place.namespace}/pods")["items"]
        assert role(pod) == "prepare"
        body = {"rewarm": {"phase": {"activity": "Preparing"}}}
        token = token_of(place, path, pod)
        answers = (post(place, operator, token, body)[0] for _ in range(100))
        assert 204 in answers, "as soon as the operator's own watch has brought the pod"


def test_an_unmodified_kubeflow_callback_is_understood(reporting):
    place, operator, path = reporting
    body = {"trainerStatus": {"progressPercentage": 25, "metrics": [{"name": "current_step", "value": "16"}]}}
    assert post(place, operator, token_of(place, path, pod_of(place)), body)[0] == 204
    place.api.wait(path, lambda run: ((run or {}).get("status", {}).get("progress") or {}).get("step") == 16)


def test_what_is_no_report_is_refused_in_one_line(reporting):
    place, operator, path = reporting
    token = token_of(place, path, pod_of(place))
    assert post(place, operator, token, b"{")[0] == 400
    assert post(place, operator, token, {"rewarm": {"progress": {"step": -1}}})[0] == 400
    assert post(place, operator, token, b'{"x": "' + b"y" * 300_000 + b'"}')[0] == 413
    codes = {post(place, operator, token, {"rewarm": REPORT}) for _ in range(40)}
    assert (429, "1") in codes


def test_a_pod_of_an_old_attempt_is_not_believed(reporting):
    place, operator, path = reporting
    token = token_of(place, path, pod_of(place))
    assert post(place, operator, token, {"rewarm": REPORT})[0] == 204
    place.edit(path, {"spec": {"suspend": True}})
    place.api.wait(f"{place.jobs}/run-a1", lambda job: job is None)
    answers = (post(place, operator, token, {"rewarm": REPORT})[0] for _ in range(100))
    refused = next((code for code in answers if code not in (204, 429)), None)
    assert refused in (401, 403), "as soon as the operator's own watch has brought the Job's end"


def test_a_standby_says_try_again(reporting):
    place, first, path = reporting
    token = token_of(place, path, pod_of(place))
    with place.operator("operator-2", **{name[7:].lower(): text for name, text in first.settings.items()}) as second:
        second.await_metric("rewarm_operator_leader", 0.0)
        status, retry_after = post(place, second, token, {"rewarm": REPORT})
    assert (status, retry_after) == (503, "5")
