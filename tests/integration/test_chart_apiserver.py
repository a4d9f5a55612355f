"""The chart by Helm itself on a real kube-apiserver: install, upgrade, uninstall, a second release, and `helm test`'s
questions under the rendered rights."""

from __future__ import annotations

import base64
import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
from real_cluster import needs_control_plane
from rendered_chart import CHART, one, render

from rewarm_api.manifest import read_manifest, set_path
from rewarm_cluster.access import grant
from rewarm_cluster.control_plane import ControlPlane
from rewarm_cluster.processes import Processes, free_ports

ROOT = CHART.parents[1]
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/continualruns.rewarm.dev"
# Everything whose kinds a plain API server knows.
VALUES: dict[str, Any] = {
    "replicas": 2,
    "mlflow": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "podDisruptionBudget": {"enabled": True},
    "dashboards": {"enabled": True},
    "rbac": {"userRoles": True},
    "checkpoints": {"uri": "s3://b/runs/"},
    "trainer": {"environment": {"HTTPS_PROXY": "http://proxy:3128"}},
}

pytestmark = [pytest.mark.slow, needs_control_plane("api")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    with ControlPlane("api") as cluster:
        for name in ("ml", "lab"):
            status, answer = cluster.api.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
            assert status == 201, answer
        yield cluster


@pytest.fixture(scope="module")
def release(cluster: ControlPlane) -> Iterator[helm.Config]:
    """The chart, installed in `ml` as `rewarm`."""
    with helm.Config(kubeconfig_path=cluster.kubeconfig, namespace="ml") as config:
        config.install(CHART, "rewarm", VALUES, namespace="ml", timeout=120)
        yield config


def found(cluster: ControlPlane, path: str) -> Any:
    status, answer = cluster.api.call("GET", path)
    return answer if status == 200 else None


def established(crd: Any) -> bool:
    conditions = (crd or {}).get("status", {}).get("conditions") or ()
    return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)


def selftest(cluster: ControlPlane, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("REWARM_")}
    given |= {
        "KUBECONFIG": str(cluster.service_account("ml", "rewarm")),
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("api", "operator")),
        "REWARM_OPERATOR_NAMESPACE": "ml",
        "REWARM_NAMESPACES": "ml",
        **environment,
    }
    command = [sys.executable, "-m", "rewarm_operator.selftest"]
    return subprocess.run(command, capture_output=True, text=True, env=given, timeout=120)


def test_everything_is_taken_as_it_was_rendered(release: helm.Config, cluster: ControlPlane) -> None:
    """Server-side apply refuses repeated names; what is left out is what the API server puts in by itself."""
    deployment = found(cluster, "/apis/apps/v1/namespaces/ml/deployments/rewarm")
    rendered = one(render(VALUES, namespace="ml"), "Deployment", "rewarm")
    live, wanted = (item["spec"]["template"]["spec"]["containers"][0] for item in (deployment, rendered))
    assert [entry["name"] for entry in live["env"]] == [entry["name"] for entry in wanted["env"]]
    assert deployment["spec"]["replicas"] == 2
    assert found(cluster, "/apis/apps/v1/namespaces/ml/deployments/rewarm-mlflow")
    assert found(cluster, "/api/v1/namespaces/ml/configmaps/rewarm-dashboards")
    run = read_manifest(ROOT / "tests/unit/api/minimal.yaml")
    set_path(run, "spec.corpus.sources[0].uri", "s3://corpora/notes.txt")
    run["metadata"]["name"] = "kept"
    path = "/apis/rewarm.dev/v1alpha1/namespaces/ml/continualruns"
    assert cluster.api.wait(CRD, established)
    status, answer = cluster.api.call("POST", path + "?fieldValidation=Strict", run)
    assert status == 201, answer


def test_an_upgrade_keeps_the_progress_certificate(release: helm.Config, cluster: ControlPlane) -> None:
    before = found(cluster, "/api/v1/namespaces/ml/secrets/rewarm-progress")
    release.upgrade(CHART, "rewarm", {**VALUES, "replicas": 1}, namespace="ml", timeout=120)
    after = found(cluster, "/api/v1/namespaces/ml/secrets/rewarm-progress")
    assert after["data"] == before["data"]
    assert found(cluster, "/apis/apps/v1/namespaces/ml/deployments/rewarm")["spec"]["replicas"] == 1


def test_the_certificate_is_good_for_the_services_name(
    release: helm.Config, cluster: ControlPlane, tmp_path: Path
) -> None:
    """As openssl sees it: signed by the kept authority, and for the name in REWARM_PROGRESS_URL."""
    data = found(cluster, "/api/v1/namespaces/ml/secrets/rewarm-progress")["data"]
    for key in ("ca.crt", "tls.crt"):
        (tmp_path / key).write_bytes(base64.b64decode(data[key]))
    command = ["openssl", "verify", "-CAfile", "ca.crt", "-verify_hostname", "rewarm.ml.svc", "tls.crt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    command[5] = "elsewhere.ml.svc"
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode != 0


def test_helm_tests_questions_are_answered_well(release: helm.Config, cluster: ControlPlane) -> None:
    done = selftest(cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok      API rewarm.dev/v1alpha1 is served" in done.stdout
    assert "ok      rights in ml" in done.stdout
    assert "ok      no rights on secrets in ml" in done.stdout


def test_missing_and_surplus_rights_are_named(release: helm.Config, cluster: ControlPlane) -> None:
    """In a namespace where somebody else gave the account its rights."""
    watched = [rule for rule in one(render(), "Role", "rewarm")["rules"] if rule["resources"] != ["jobs"]]
    surplus = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    jobs = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch"]}
    subject = {"kind": "ServiceAccount", "name": "rewarm", "namespace": "ml"}
    cluster.apply(grant("by-hand", subject, [*watched, jobs, surplus], "lab"))
    done = selftest(cluster, REWARM_NAMESPACES="lab")
    assert done.returncode == 1
    assert "FAILED  rights in lab: found no right to create jobs.batch, delete jobs.batch; " in done.stdout
    assert "FAILED  no rights on secrets in lab: found a right to get secrets, expected none" in done.stdout


def test_servers_that_do_not_answer_are_named(release: helm.Config, cluster: ControlPlane) -> None:
    port = free_ports(1)[0]
    done = selftest(
        cluster,
        REWARM_PROGRESS_URL=f"https://127.0.0.1:{port}",
        REWARM_DEFAULT_TRACKING_URI=f"http://127.0.0.1:{port}",
    )
    assert done.returncode == 1
    assert f"FAILED  progress server https://127.0.0.1:{port}: cannot be reached as pods do it" in done.stdout
    assert f"FAILED  MLflow at http://127.0.0.1:{port}: answered no call of its API" in done.stdout


def test_mlflow_as_the_chart_starts_it(release: helm.Config, cluster: ControlPlane, tmp_path: Path) -> None:
    """The rendered command and environment, but for place and port: Service names pass its check, others do not."""
    deployment = one(render(VALUES, namespace="ml"), "Deployment", "rewarm-mlflow")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    port = free_ports(1)[0]
    changes = {"--port=5000": f"--port={port}", "/var/lib/mlflow": str(tmp_path)}
    command = [sys.executable, *container["command"][1:]]
    for old, new in changes.items():
        command = [word.replace(old, new) for word in command]
    environment = {entry["name"]: entry["value"] for entry in container["env"]} | {"HOME": str(tmp_path)}
    processes = Processes(tmp_path, detached=False)
    processes.start("mlflow", command, environment=environment)
    try:
        processes.wait_ready("mlflow", lambda: _status(port, "/health", "any") == 200, within_s=180)
        for host in ("rewarm-mlflow:5000", "rewarm-mlflow.ml.svc:5000", "rewarm-mlflow.ml.svc.cluster.local:5000"):
            assert _status(port, "/api/2.0/mlflow/experiments/search?max_results=1", host) == 200, host
        assert _status(port, "/api/2.0/mlflow/experiments/search?max_results=1", "evil.example.org") == 403
        good = selftest(cluster, REWARM_DEFAULT_TRACKING_URI=f"http://127.0.0.1:{port}")
        assert f"ok      MLflow at http://127.0.0.1:{port}" in good.stdout
        refused = selftest(cluster, REWARM_DEFAULT_TRACKING_URI=f"http://127.0.0.2:{port}")
        assert "refused a call of its API with 403" in refused.stdout
        assert "MLFLOW_SERVER_ALLOWED_HOSTS" in refused.stdout
    finally:
        processes.stop("mlflow")


def _status(port: int, path: str, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_a_second_release_leaves_the_crd_to_the_first(release: helm.Config, cluster: ControlPlane) -> None:
    with helm.Config(kubeconfig_path=cluster.kubeconfig, namespace="lab") as config:
        with pytest.raises(helm.HelmError, match=r"continualruns\.rewarm\.dev.*(ownership|owned|invalid)"):
            config.install(CHART, "other", {}, namespace="lab", timeout=120)
        config.uninstall("other", ignore_not_found=True)
        config.install(CHART, "other", {"crds": {"enabled": False}}, namespace="lab", timeout=120)
        assert found(cluster, "/apis/apps/v1/namespaces/lab/deployments/other-rewarm")
        config.uninstall("other")


def test_uninstalling_keeps_the_crd_and_the_runs(release: helm.Config, cluster: ControlPlane) -> None:
    """The last of this file: another name cannot take what is kept; the same one can."""
    release.uninstall("rewarm")
    assert found(cluster, CRD)
    assert found(cluster, "/apis/rewarm.dev/v1alpha1/namespaces/ml/continualruns/kept")
    assert found(cluster, "/apis/apps/v1/namespaces/ml/deployments/rewarm") is None
    assert found(cluster, "/apis/rbac.authorization.k8s.io/v1/clusterroles/ml-rewarm-tokenreviews") is None
    with pytest.raises(helm.HelmError, match=r"continualruns\.rewarm\.dev"):
        release.install(CHART, "renamed", VALUES, namespace="ml", timeout=120)
    release.uninstall("renamed", ignore_not_found=True)
    release.install(CHART, "rewarm", VALUES, namespace="ml", timeout=120)
    release.uninstall("rewarm")
