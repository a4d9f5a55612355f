"""Names that are contract: of objects, labels, annotations, and of what stands inside the pods."""

from __future__ import annotations

import re

from rewarm_operator.resources import ATTEMPT_LABEL, FINALIZER, ROLE_LABEL, RUN_LABEL, STUDY_LABEL, UID_LABEL

__all__ = ["ATTEMPT_LABEL", "FINALIZER", "ROLE_LABEL", "RUN_LABEL", "STUDY_LABEL", "UID_LABEL"]

TRAINER = "trainer"
PREPARE = "prepare"
FIT = "fit"

ATTEMPT_ANNOTATION = "rewarm.dev/attempt"
"""Of a pod: the text of attempt.json."""
AUTHORITY_ANNOTATION = "rewarm.dev/progress-ca"
"""Of a pod: PEM text of the progress server's authority."""
AUTHORITY_DIGEST_ANNOTATION = "rewarm.dev/progress-ca-digest"
"""Of a pod: which authority it trusts, in short; a pod with another one cannot report and is never taken for hung."""
SPENT_ANNOTATION = "rewarm.dev/spent"
"""Of a prepare Job: counts when it was made, so that its end is counted once."""
MADE_AS_ANNOTATION = "rewarm.dev/made-as"
"""Of a run of a study: digest of the experiment that the study asked for when it was made. Of a fit Job: of it."""
STUDY_ANNOTATION = "rewarm.dev/study-manifest"
"""Of a fit pod: the study, and the cluster's defaults, as JSON."""
PROMOTE_ANNOTATION = "rewarm.dev/promote"

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"

CONTAINER = "trainer"
SNAPSHOT_KEY = "snapshot.json"
STUDY_KEY = "study.json"
"""Of the file that a fit pod reads; its artefact has the same name, in the study's own folder."""
RENDEZVOUS_PORT = 29500
METRICS_PORT = 9400

_ATTEMPT = re.compile(r"-a([1-9][0-9]*)$")


def prepare_job(run: str) -> str:
    return f"{run}-prepare"


def fit_job(study: str) -> str:
    return f"{study}-fit"


def attempt_job(run: str, number: int) -> str:
    return f"{run}-a{number}"


def attempt_number(run: str, job: str) -> int | None:
    """The attempt that a Job of this run stands for; None for its other Jobs."""
    found = _ATTEMPT.search(job)
    return int(found[1]) if found and job[: found.start()] == run else None


def token_audience(namespace: str, run: str, uid: str) -> str:
    """Who a pod's progress token is for: this run of this name, and no other."""
    return f"rewarm.dev/{namespace}/{run}/{uid}"


def progress_path(namespace: str, run: str) -> str:
    return f"/v1/progress/{namespace}/{run}"
