"""The CustomResourceDefinition of MixtureStudy: `python -m rewarm_api.crd_study > crds/mixturestudies.yaml`.

The template carries the whole schema of a ContinualRun's spec without its rules: what it leaves out, the grid puts in,
and each run that follows is checked as a ContinualRun.
"""

from __future__ import annotations

import sys
from typing import Any

from rewarm_api.cel import rule
from rewarm_api.crd import column, definition, model_schema, to_text
from rewarm_api.fields import NAME_PATTERN
from rewarm_api.run import RunSpec
from rewarm_api.study import KIND, StudySpec
from rewarm_api.study_status import StudyStatus

_HEADER = "# Generated from the models of rewarm_api by `python -m rewarm_api.crd_study`. Do not edit.\n"
_TOP_RULES = [
    rule(
        f"self.metadata.name.matches('{NAME_PATTERN}')",
        "metadata.name must be a lower-case letter, then at most 39 lower-case letters, digits and inner hyphens",
    )
]
_COLUMNS = (
    ("Status", "string", ".status.summary", 0, "For eyes; machines read conditions"),
    ("Runs", "integer", ".status.runs.total", 0, "Of the grid, held-out ones included"),
    ("Finished", "integer", ".status.runs.finished", 0, "Trained and judged"),
    ("Tolerance", "string", ".spec.tolerance", 0, "On every Retained set"),
    ("Replay", "number", ".status.replayRatio", 0, "The least that keeps the tolerance, at the largest budget"),
    ("Succeeded", "string", '.status.conditions[?(@.type=="Succeeded")].status', 0, "True: the laws are fitted"),
    ("Reason", "string", '.status.conditions[?(@.type=="Succeeded")].reason', 1, "Why"),
    ("Failed", "integer", ".status.runs.failed", 1, "Runs without a verdict"),
    ("Artefact", "string", ".status.artefact.uri", 1, "study.json"),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Since creation"),
)
_SPEC_RULES = [
    rule(
        "has(self.template.spec.baseModel) != (has(self.grid.models) && size(self.grid.models) > 0)",
        "exactly one of template.spec.baseModel | grid.models",
    ),
    rule(
        "has(self.template.spec.budget) != (has(self.grid.budgets) && size(self.grid.budgets) > 0)",
        "exactly one of template.spec.budget | grid.budgets",
    ),
    rule(
        "!has(self.template.spec.gates)",
        "the runs of a study are never promoted; remove gates",
        fieldPath=".template.spec.gates",
    ),
    rule(
        "!has(self.holdOut) || self.holdOut.replayRatios.all(r, !(r in self.grid.replayRatios))",
        "a held-out ratio must not be one of the grid; remove it from one of them",
        fieldPath=".holdOut.replayRatios",
    ),
]


def custom_resource_definition() -> dict[str, Any]:
    """The whole object, as an API server takes it."""
    names = {"plural": "mixturestudies", "singular": "mixturestudy", "shortNames": ["mstudy"]}
    shown = [column(*given) for given in _COLUMNS]
    return definition(KIND, names, shown, _root(), subresources={"status": {}})


def to_yaml() -> str:
    """The file `crds/mixturestudies.yaml`."""
    return to_text(custom_resource_definition(), _HEADER)


def _root() -> dict[str, Any]:
    spec = model_schema("study", StudySpec)
    template = _without_rules(model_schema("spec", RunSpec))
    template["required"] = [name for name in template["required"] if name not in ("baseModel", "budget")]
    # The grid sets it; a server would have to refuse a template without it.
    replay = template["properties"]["replay"]
    replay.pop("required", None)
    for name in ("ratio", "fromStudy"):
        replay["properties"].pop(name)
    spec["properties"]["template"]["properties"]["spec"] = template
    spec["properties"]["grid"]["properties"]["models"]["items"]["properties"]["baseModel"] = template["properties"][
        "baseModel"
    ]
    for part in ("grid", "holdOut"):
        spec["properties"][part]["properties"]["replayRatios"]["x-kubernetes-list-type"] = "set"
    models = spec["properties"]["grid"]["properties"]["models"]
    models |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    spec["x-kubernetes-validations"] = _SPEC_RULES
    return {
        "description": "MixtureStudy: runs on a grid of replay ratios, and the laws fitted to them.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this schema."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _without_rules(model_schema("status", StudyStatus)),
        },
        "x-kubernetes-validations": _TOP_RULES,
    }


def _without_rules(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_rules(value) for key, value in schema.items() if key != "x-kubernetes-validations"}
    return [_without_rules(item) for item in schema] if isinstance(schema, list) else schema


if __name__ == "__main__":
    sys.stdout.write(to_yaml())
