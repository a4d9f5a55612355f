"""Who owns the CRD, by the real Helm on a real API server of its own: what docs/install.md says, word by word."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from rendered_chart import CHART

from rewarm_cluster import binaries
from rewarm_cluster.control_plane import ControlPlane

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/continualruns.rewarm.dev"
Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    binaries.build(("helm",), lambda line: None)
    with ControlPlane("api") as plane:
        for name in ("first", "second"):
            status, answer = plane.api.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
            assert status == 201, answer
        yield plane


@pytest.fixture(scope="module")
def helm(plane: ControlPlane) -> Helm:
    def call(*arguments: str, namespace: str) -> subprocess.CompletedProcess[str]:
        command = [str(binaries.find("helm")), "--kubeconfig", str(plane.kubeconfig), "-n", namespace, *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    return call


def owner(plane: ControlPlane) -> str:
    return str(plane.api.get(CRD)["metadata"]["annotations"]["meta.helm.sh/release-name"])


def test_the_kept_crd_goes_to_another_name_only_when_it_is_handed_over(helm: Helm, plane: ControlPlane) -> None:
    assert helm("install", "old", str(CHART), namespace="first").returncode == 0
    removed = helm("uninstall", "old", namespace="first")
    assert removed.returncode == 0
    assert "kept due to the resource policy" in removed.stdout
    refused = helm("install", "new", str(CHART), namespace="second")
    assert refused.returncode == 1
    assert "exists and cannot be imported into the current release" in refused.stderr
    assert owner(plane) == "old"
    taken = helm("install", "new", str(CHART), "--take-ownership", namespace="second")
    assert taken.returncode == 0, taken.stderr
    assert owner(plane) == "new"
    assert helm("upgrade", "new", str(CHART), namespace="second").returncode == 0


def test_a_second_release_leaves_the_crd_alone(helm: Helm, plane: ControlPlane) -> None:
    beside = helm("install", "beside", str(CHART), "--set", "crds.enabled=false", namespace="first")
    assert beside.returncode == 0, beside.stderr
    assert owner(plane) == "new"


def test_an_edit_by_hand_is_a_conflict_that_names_the_field(helm: Helm, plane: ControlPlane) -> None:
    plane.kubectl("-n", "second", "scale", "deployment/new-rewarm", "--replicas=3")
    refused = helm("upgrade", "new", str(CHART), "--set", "replicas=2", namespace="second")
    assert refused.returncode == 1
    assert "conflict" in refused.stderr
    assert ".spec.replicas" in refused.stderr
    forced = helm("upgrade", "new", str(CHART), "--set", "replicas=2", "--force-conflicts", namespace="second")
    assert forced.returncode == 0, forced.stderr


def test_a_misspelt_value_is_refused_by_name(helm: Helm) -> None:
    refused = helm("install", "third", str(CHART), "--set", "replcas=2", namespace="first")
    assert refused.returncode == 1
    assert "additional properties 'replcas' not allowed" in refused.stderr
