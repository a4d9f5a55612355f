"""What may be added to pods, and what is refused with which words. What a server says: tests/integration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pod_templates import POD, REFUSED, WHOLE

from rewarm_api.pod_template import Topology, topology_annotations
from rewarm_api.reading import without_nulls
from rewarm_api.resolve import resolve

CLUSTER = {
    "spec.corpus.sources[0].uri": "s3://corpora/notes.txt",
    "spec.compute": "{gpusPerNode: 0}",
}


# What stands there once read: the same, with defaults filled in.
DEFAULTED = {
    "volumeMounts": [
        {"name": "fast", "mountPath": "/fast", "readOnly": False, "subPath": ""},
        {"name": "models", "mountPath": "/models", "readOnly": True, "subPath": "llama"},
    ],
    "env": [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "OMP_NUM_THREADS", "value": "8"},
        {"name": "REWARM_COMPILE", "value": "off"},
        {"name": "REWARM_CHUNKED_LOSS", "value": "auto"},
        {"name": "TOKENIZERS_PARALLELISM", "value": "false"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token", "optional": False}}},
        {"name": "LICENCE", "valueFrom": {"secretKeyRef": {"name": "licence", "key": "text", "optional": True}}},
        {"name": "SITE", "valueFrom": {"configMapKeyRef": {"name": "site", "key": "name", "optional": False}}},
        {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        {"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}},
    ],
}


def test_the_whole_list_is_taken_and_carried_outside_the_digest(check, yaml):
    plain, with_pod = check(CLUSTER, local=False), check(CLUSTER | {POD: WHOLE}, local=False)
    assert with_pod.problems == ()
    snapshot = resolve(with_pod.run, uid="u")
    carried = snapshot.operation["compute"]["podTemplate"]
    assert without_nulls(carried) == yaml(WHOLE) | DEFAULTED
    assert snapshot.digest == resolve(plain.run, uid="u").digest


def test_the_page_on_speed_keeps_the_compilers_cache_on_a_claim(check, yaml):
    page = (Path(__file__).parents[3] / "docs" / "speed.md").read_text()
    template = yaml(page.partition("```yaml")[2].partition("```")[0])["compute"]["podTemplate"]
    checked = check(CLUSTER | {POD: json.dumps(template)}, local=False)
    assert checked.problems == ()
    image = (Path(__file__).parents[3] / "Dockerfile").read_text()
    assert all(f"{each['name']}=" in image for each in template["env"]), "what the image sets, elsewhere"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_field_and_the_mend(check, name):
    template, _, field, words = REFUSED[name]
    problems = check(CLUSTER | {POD: template}, local=False).problems
    assert [(problem.field, words in str(problem)) for problem in problems] == [(field, True)], problems


def test_a_certificate_that_speaks_for_the_service_account_is_refused_like_its_token(check):
    volume = "{volumes: [{name: x, projected: {sources: [{podCertificate: {signerName: example.com/s}}]}}]}"
    (problem,) = check(CLUSTER | {POD: volume}, local=False).problems
    assert (problem.field, problem.found) == (f"{POD}.volumes[0].projected.sources[0]", "podCertificate")


def test_gpus_are_refused_by_the_name_that_compute_gives_them(check):
    changes = CLUSTER | {
        "spec.compute": "{gpusPerNode: 0, gpuResource: example.com/accelerator}",
        POD: "{resources: {limits: {example.com/accelerator: 4}}}",
    }
    (problem,) = check(changes, local=False).problems
    assert (problem.field, problem.found) == (f"{POD}.resources.limits", "example.com/accelerator")


@pytest.mark.parametrize("kind", ["nfs", "iscsi", "fc", "cephfs"])
def test_volumes_outside_pod_security_restricted_are_refused(check, kind):
    (problem,) = check(CLUSTER | {POD: f"{{volumes: [{{name: a, {kind}: {{}}}}]}}"}, local=False).problems
    assert (problem.field, problem.found) == (f"{POD}.volumes[0]", kind)
    assert "persistentVolumeClaim" in problem.fix


def test_all_problems_come_at_once_and_a_broken_volume_hides_no_other(check):
    template = (
        "{volumes: [{emptyDir: {}}], volumeMounts: [{name: a, mountPath: /tmp}], env: [3, {name: RANK, value: x}]}"
    )
    fields = {problem.field for problem in check(CLUSTER | {POD: template}, local=False).problems}
    assert fields == {f"{POD}.volumes[0]", f"{POD}.volumeMounts[0].mountPath", f"{POD}.env[0]", f"{POD}.env[1].name"}


def test_topology_becomes_the_annotation_that_kueue_reads():
    label = "topology.example.com/rack"
    assert topology_annotations(None) == {}
    assert topology_annotations(Topology(required=label)) == {"kueue.x-k8s.io/podset-required-topology": label}
    assert topology_annotations(Topology(preferred=label)) == {"kueue.x-k8s.io/podset-preferred-topology": label}
