"""Every right of the rendered Roles is used: one that this story does not need is one that the operator must not have.

The story is told to a real API server under exactly these Roles, through a proxy that notes what was asked and allowed.
"""

from __future__ import annotations

import pytest
from fault_proxy import Fault
from operator_process import ROOT, Json, Place, condition, operator_kubeconfig, prepare_only, workloads
from progress_posts import REPORT, pod_of, post, token_of
from real_cluster import needs_control_plane
from rendered_chart import of_kind, render, rules

from rewarm_api.manifest import read_manifest

pytestmark = [pytest.mark.slow, needs_control_plane("jobs")]

UNSEEN = {
    # Asked by the admission plugin OwnerReferencesPermissionEnforcement (OpenShift has it on) about blockOwnerDeletion.
    ("rewarm.dev", "continualruns/finalizers", "update"),
}


def studies(place: Place) -> str:
    return f"/apis/rewarm.dev/v1alpha1/namespaces/{place.namespace}/mixturestudies"


def document_of_a_study(place: Place) -> Json:
    document: Json = read_manifest(ROOT / "examples" / "study-on-a-cluster.yaml")
    document["metadata"]["namespace"] = place.namespace
    return document


def test_every_right_is_used(place: Place):
    values = {"watch": {"namespaces": [place.namespace]}, "progress": {"enabled": True}}
    roles = [item for kind in ("Role", "ClusterRole") for item in of_kind(render(values), kind)]
    given = set().union(*(rules(role) for role in roles))
    certificate, key = place.cluster.certificates.server("rights", "rights", ["127.0.0.1"])
    operator_kubeconfig(place.cluster, place.namespace, place.proxy.url, progress={"enabled": True})
    operator = place.operator(
        progress_url="https://127.0.0.1:8443",
        progress_certificate=str(certificate),
        progress_key=str(key),
        progress_ca_file=str(place.cluster.authority),
    )
    with workloads(place), place.kubelet(prepare_only), operator:
        # Names that are taken are looked at.
        services, maps = (f"/api/v1/namespaces/{place.namespace}/{kind}" for kind in ("services", "configmaps"))
        taken = {"metadata": {"name": "run"}}
        assert place.api.call("POST", services, taken | {"spec": {"ports": [{"port": 80}]}})[0] == 201
        assert place.api.call("POST", maps, taken)[0] == 201
        path = place.submit()
        study = document_of_a_study(place)
        assert place.api.call("POST", studies(place), study)[0] == 201
        for kind in (maps, services):
            asked = f"GET {kind}/run"
            place.proxy.wait(lambda asked=asked: asked in map(str, place.proxy.requests))
            assert place.api.call("DELETE", f"{kind}/run")[0] == 200
        place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
        # Reports are reviewed.
        assert post(place, operator, token_of(place, path, pod_of(place)), {"rewarm": REPORT})[0] == 204
        # What happens a second time is counted on the Event that told it first.
        for suspend, awaited in ((True, "Suspended"), (False, "Running")):
            place.edit(path, {"spec": {"suspend": suspend}})
            place.api.wait(path, lambda run, awaited=awaited: condition(run, awaited)[0] == "True")
        # Watches that fall silent are noticed by comparing, and then each object that differs is looked at.
        place.proxy.add(Fault(lambda request: request.is_watch, times=None, silent=True))
        place.proxy.cut()
        queue = f"/apis/kueue.x-k8s.io/v1beta1/namespaces/{place.namespace}/workloads"
        workload = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "Workload", "metadata": {"name": "w"}}
        assert place.api.call("POST", queue, workload)[0] == 201
        for kind in (f"/api/v1/namespaces/{place.namespace}/pods", place.jobs):
            for item in place.api.get(kind)["items"]:
                place.edit(f"{kind}/{item['metadata']['name']}", {"metadata": {"annotations": {"touched": "yes"}}})
        place.edit(f"{studies(place)}/pubmed-mix", {"metadata": {"annotations": {"touched": "yes"}}})
        place.edit(path, {"spec": {"suspend": True}})
        place.api.wait(f"{place.jobs}/run-a2", lambda job: job is None)
        try:
            place.proxy.wait(lambda: given - UNSEEN <= place.proxy.rights)
        except AssertionError:
            pytest.fail(f"rights that nothing uses: {sorted(given - UNSEEN - place.proxy.rights)}")
    assert place.proxy.rights - {("apiextensions.k8s.io", "customresourcedefinitions", "list")} <= given
    assert "blockOwnerDeletion" in str(place.api.get(f"{place.jobs}/run-prepare")["metadata"]["ownerReferences"])
