"""Which runs a study asks for, as its spec stands now, or everything that is wrong with it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from rewarm_api.defaults import Defaults
from rewarm_api.errors import Problem
from rewarm_api.frozen import digest_of
from rewarm_api.messages import NOTHING
from rewarm_api.study import MixtureStudy
from rewarm_api.study_rules import validate_study
from rewarm_api.study_runs import ChildRun, child_runs
from rewarm_operator.remembered import Remembered, defaults_of
from rewarm_operator.settings import Settings

TEMPLATE = "spec.template.spec"
_OPERATION = (
    "compute", "retries", "suspend", "credentials", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "cache",
    "checkpoints", "tracking",
)  # fmt: skip
"""How a run is done, not what it measures: of the template this may change, for the runs that are still to come."""


@dataclass(frozen=True)
class Plan:
    """`children` are empty when there are problems."""

    problems: tuple[Problem, ...]
    children: tuple[ChildRun, ...] = ()
    study: MixtureStudy | None = None

    @cached_property
    def made_as(self) -> Mapping[str, str]:
        """Name of each run -> digest of its experiment."""
        return {child.name: _experiment(child) for child in self.children}


def manifest_text(study: Mapping[str, Any], settings: Settings) -> str:
    """What a fit pod is given: the study, its uid, and the cluster's defaults."""
    metadata = study["metadata"]
    named = {"name": metadata["name"], "namespace": metadata["namespace"]}
    document = {
        "apiVersion": study.get("apiVersion") or "rewarm.dev/v1alpha1",
        "kind": "MixtureStudy",
        "metadata": named,
        "spec": study["spec"],
    }
    value = {
        "study": document,
        "uid": metadata["uid"],
        "defaults": asdict(defaults_of(str(metadata["namespace"]), settings)),
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plan(study: Mapping[str, Any], defaults: Defaults) -> Plan:
    validation = validate_study(study, local=False)
    if validation.study is None:
        return Plan(validation.problems)
    places = validation.study.spec.template.spec.get("checkpoints") or {}
    if not places.get("uri") and not defaults.checkpoints_uri:
        expected = "s3:// | claim://NAME/path, since this cluster has no default"
        fix = "add checkpoints.uri, or set the chart's value checkpoints.uri"
        return Plan((Problem(f"{TEMPLATE}.checkpoints.uri", NOTHING, expected, fix),))
    return Plan((), tuple(child_runs(validation.study)), validation.study)


def _experiment(child: ChildRun) -> str:
    return digest_of({name: value for name, value in child.document["spec"].items() if name not in _OPERATION})


planned = Remembered(_plan, 64)
"""The runs of a study, or everything that is wrong with it: `planned(study, settings)`."""
