"""The objects that a run owns, exactly as they are posted: ConfigMap, Service, prepare Job, attempt Job; and a study's:
runs and fit Job. Pure.

Tables: operator.md, "Objects and names" and "Job fields of an attempt". Created once, never patched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rewarm_api.frozen import digest_of
from rewarm_api.operation import Compute
from rewarm_api.run import API_VERSION, KIND
from rewarm_api.study_runs import ChildRun
from rewarm_operator import names, pod_objects
from rewarm_operator.pod_objects import PodFacts
from rewarm_operator.resources import STUDY, owner_uids

Json = dict[str, Any]

_ENDS_AT_ONCE = [64, 65, 66]


def owner_reference(run: Mapping[str, Any]) -> Json:
    """Makes the API server delete a child with its run."""
    metadata = run["metadata"]
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_ours(item: Mapping[str, Any], uid: str) -> bool:
    return uid in owner_uids(item)


def config_map(run: Mapping[str, Any], snapshot: Mapping[str, Any]) -> Json:
    """`snapshot` is that of the API with its digest added. Immutable, as the experiment is."""
    text = json.dumps(snapshot, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(run, run["metadata"]["name"], ""),
        "immutable": True,
        "data": {names.SNAPSHOT_KEY: text},
    }


def service(run: Mapping[str, Any]) -> Json:
    """Headless: gives each trainer pod a name before it is ready, which is how the ranks find rank 0."""
    name, uid = run["metadata"]["name"], run["metadata"]["uid"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(run, name, names.TRAINER),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.UID_LABEL: uid, names.ROLE_LABEL: names.TRAINER},
            "ports": [
                {"name": "rendezvous", "port": names.RENDEZVOUS_PORT, "targetPort": names.RENDEZVOUS_PORT},
                {"name": "metrics", "port": names.METRICS_PORT, "targetPort": names.METRICS_PORT},
            ],
        },
    }


def prepare_job(facts: PodFacts, spent: Mapping[str, int]) -> Json:
    """One pod on the CPU. `spent`: the run's counts when this Job is made, so that its end is counted once."""
    job = _job(facts, names.prepare_job(facts.run_name), names.PREPARE, pod_objects.prepare_template(facts))
    job["metadata"]["annotations"] = {names.SPENT_ANNOTATION: json.dumps(dict(spent), sort_keys=True)}
    job["spec"] |= {"completions": 1, "parallelism": 1}
    return job


def attempt_job(facts: PodFacts) -> Json:
    """One pod for each node; rank 0's success is the Job's, and any failure ends all."""
    name = names.attempt_job(facts.run_name, facts.attempt)
    job = _job(facts, name, names.TRAINER, pod_objects.attempt_template(facts))
    job["metadata"]["labels"][names.ATTEMPT_LABEL] = str(facts.attempt)
    job["spec"] |= {
        "completionMode": "Indexed",
        "completions": facts.compute.nodes,
        "parallelism": facts.compute.nodes,
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
    }
    return job


def fit_job(facts: PodFacts, spent: Mapping[str, int]) -> Json:
    """One pod on the CPU that fits the laws of a study. `spent`: how often that was tried before."""
    template = pod_objects.fit_template(facts)
    job = _job(facts, names.fit_job(facts.run_name), names.FIT, template)
    job["metadata"]["labels"] = {**template["metadata"]["labels"], **_queue_labels(facts.compute)}
    job["metadata"]["annotations"] = {
        names.SPENT_ANNOTATION: json.dumps(dict(spent), sort_keys=True),
        names.MADE_AS_ANNOTATION: digest_of(facts.study),
    }
    job["metadata"]["ownerReferences"] = [study_reference(facts.run)]
    job["spec"] |= {"completions": 1, "parallelism": 1}
    return job


def study_run(study: Mapping[str, Any], child: ChildRun, made_as: str) -> Json:
    """A run of a study; it is posted once and never patched."""
    metadata = study["metadata"]
    return {
        **child.document,
        "metadata": {
            "name": child.name,
            "namespace": metadata["namespace"],
            "labels": {names.STUDY_LABEL: metadata["name"]},
            "annotations": {names.MADE_AS_ANNOTATION: made_as},
            "ownerReferences": [study_reference(study)],
        },
    }


def study_reference(study: Mapping[str, Any]) -> Json:
    """Makes the API server delete runs and fit Job with their study. Blocking its deletion would take a right more."""
    metadata = study["metadata"]
    return {
        "apiVersion": STUDY.version,
        "kind": STUDY.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }


def _job(facts: PodFacts, name: str, role: str, template: Json) -> Json:
    metadata = _metadata(facts.run, name, role)
    metadata["labels"] |= _queue_labels(facts.compute)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": names.CONTAINER,
                            "operator": "In",
                            "values": list(_ENDS_AT_ONCE),
                        },
                    },
                ]
            },
            "template": template,
        },
    }


def _queue_labels(compute: Compute) -> dict[str, str]:
    if compute.queue is None:
        return {}
    labels = {names.QUEUE_LABEL: compute.queue}
    if compute.workload_priority_class:
        labels[names.QUEUE_PRIORITY_LABEL] = compute.workload_priority_class
    return labels


def _metadata(run: Mapping[str, Any], name: str, role: str) -> Json:
    metadata = run["metadata"]
    labels = {names.RUN_LABEL: metadata["name"], names.UID_LABEL: metadata["uid"]}
    if role:
        labels[names.ROLE_LABEL] = role
    return {
        "name": name,
        "namespace": metadata["namespace"],
        "labels": labels,
        "ownerReferences": [owner_reference(run)],
    }
