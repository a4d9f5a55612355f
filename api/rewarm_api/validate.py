"""Says everything that is wrong with a manifest at once, in the words that every command and the operator use.

Pure: looks at no file, reads no clock. Whether the named files exist is for the run to find out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Importing these makes their rules join RULES.
from rewarm_api import (  # noqa: F401
    adaptation_rules,
    branch_rules,
    citation_rules,
    controller_rules,
    finish_rules,
    parallelism_rules,
    phase_rules,
    replay_rules,
    subset_rules,
)
from rewarm_api.benchmarks import benchmark_problems
from rewarm_api.citation_form import written_out
from rewarm_api.errors import Problem
from rewarm_api.messages import found_text
from rewarm_api.order_warnings import ascending_warnings
from rewarm_api.places import address_problems
from rewarm_api.pod_rules import pod_template_problems
from rewarm_api.reading import Reader, without_nulls
from rewarm_api.rules import RULES, batch_problems, named_sources
from rewarm_api.run import ContinualRun
from rewarm_api.safety_rules import safety_problems

CLUSTER_ONLY = (
    "metadata.namespace",
    "spec.credentials",
    "spec.compute",
    "spec.retries",
    "spec.activeDeadlineSeconds",
    "spec.ttlSecondsAfterFinished",
    "spec.suspend",
)
"""Fields that only a cluster has a use for."""

_WRITTEN_BY_THE_SERVER = frozenset(
    {
        "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName",
        "generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Validation:
    """What validation found. `run` is None unless the manifest is valid.

    `unused` names the fields that a local run has no use for, for a one-line notice.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    run: ContinualRun | None
    unused: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The object that `rewarm validate -o json` prints."""
        return {
            "valid": self.valid,
            "problems": [problem.to_json() for problem in self.problems],
            "warnings": list(self.warnings),
        }


def validate(document: Mapping[str, Any], *, local: bool | None) -> Validation:
    """Every problem and warning of a manifest.

    `local` True: for a run on this machine; False: for a cluster, which refuses files and paths; None: for either.
    """
    if not isinstance(document, Mapping):
        problem = Problem("", found_text(document), "a ContinualRun manifest: a mapping", "start with `apiVersion:`")
        return Validation((problem,), (), None, ())
    given, citation = written_out(without_server_fields(without_nulls(dict(document))))
    reader = Reader()
    run = reader.model(ContinualRun, given, "")
    problems = [*citation, *reader.problems]
    if run.spec is not None:
        broken = {problem.field for problem in problems}
        for rule in RULES:
            if rule.may_run(broken):
                problems.extend(rule.check(run.spec))
        problems.extend(_process_problems(run.spec, broken, local))
        problems.extend(address_problems(run.spec, local))
        problems.extend(safety_problems(run.spec, local))
        problems.extend(benchmark_problems(run.spec, local))
        problems.extend(pod_template_problems(run.spec))
    warnings = () if run.spec is None else tuple(_warnings(run.spec))
    if not problems:
        warnings += tuple(ascending_warnings(run))
    unused = () if local is False else tuple(path for path in CLUSTER_ONLY if _given(given, path))
    return Validation(tuple(dict.fromkeys(problems)), warnings, None if problems else run, unused)


def _process_problems(spec: Any, broken: set[str], local: bool | None) -> Iterator[Problem]:
    """On a cluster the manifest itself says how many processes there are."""
    training, compute = spec.training, spec.compute
    fields = (training and training.sequence_length, training and training.global_batch_tokens)
    machines = (compute and compute.nodes, compute and compute.gpus_per_node)
    if local is not False or None in fields + machines or fields[1] % fields[0]:
        return
    yield from batch_problems(training, machines[0] * max(1, machines[1]))


def without_server_fields(document: dict[str, Any]) -> dict[str, Any]:
    """What an API server adds is observation: a manifest fetched from a cluster is valid again."""
    kept = {key: value for key, value in document.items() if key != "status"}
    if isinstance(kept.get("metadata"), dict):
        kept["metadata"] = {k: v for k, v in kept["metadata"].items() if k not in _WRITTEN_BY_THE_SERVER}
    return kept


def _given(document: Any, path: str) -> bool:
    for step in path.split("."):
        if not isinstance(document, dict) or step not in document:
            return False
        document = document[step]
    return True


def _warnings(spec: Any) -> Iterator[str]:
    for path, source in named_sources(spec):
        if "license" not in source.model_fields_set:
            yield f"{path}.license: found nothing, expected the licence of {source.name or 'this source'}; add license"
    schedule = spec.schedule
    trunk = schedule is not None and schedule.kind == "Infinite" and "anneal" not in schedule.model_fields_set
    if trunk and schedule.final_learning_rate is not None:
        yield (
            "spec.schedule.finalLearningRate: without anneal the run ends at constantLearningRate; "
            "add anneal or remove finalLearningRate"
        )
    yield from _gate_warnings(spec)


def _gate_warnings(spec: Any) -> Iterator[str]:
    gates, sets = spec.gates, spec.evaluation and spec.evaluation.sets
    if gates is None or sets is None:
        return
    replayed = spec.replay is not None and (spec.replay.sources or spec.replay.from_run is not None)
    corpus = {source.name for source in (spec.corpus and spec.corpus.sources) or [] if source is not None}
    roles = {"New"} | ({"Retained"} if replayed else set())
    if sets:
        roles = {item.role or ("New" if item.name in corpus else "Retained") for item in sets if item is not None}
    if spec.base_model is not None and spec.base_model.run is not None:
        roles.add("Retained")  # the sets of earlier stages are inherited
    for limit, name, role in ((gates.max_forgetting, "maxForgetting", "Retained"), (gates.min_gain, "minGain", "New")):
        if limit is not None and role not in roles:
            yield f"spec.gates.{name}: no evaluation set has the role {role}, so this gate stays Inconclusive; add one"
