"""The CustomResourceDefinition, generated from the models: `python -m rewarm_api.crd > crds/continualruns.yaml`.

A structural schema with a description, an enum or a bound on everything. No defaults: these go into the snapshot, never
back into spec. A test fails when the committed file is stale.
"""

from __future__ import annotations

import sys
from typing import Any

import yaml

from rewarm_api.citation_form import StudyCitation
from rewarm_api.crd_rules import RULES, immutability
from rewarm_api.fields import Spec
from rewarm_api.run import KIND, RunSpec
from rewarm_api.shape import Shape, shapes
from rewarm_api.status import RunStatus

MAXIMUM_BYTES = 256 * 1024
"""`kubectl apply` keeps a copy in an annotation of at most this size."""

_HEADER = "# Generated from the models of rewarm_api by `python -m rewarm_api.crd`. Do not edit.\n"
_KEPT = (
    "type", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "maxProperties",
    "required", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip
_LIST_KEYS = {
    "spec.corpus.sources": "name",
    "spec.replay.sources": "name",
    "spec.phases": "name",
    "spec.evaluation.sets": "name",
    "spec.evaluation.benchmarks": "name",
    "spec.credentials": "secret",
    "spec.compute.podTemplate.env": "name",
    "spec.compute.podTemplate.volumes": "name",
    "spec.compute.podTemplate.volumeMounts": "mountPath",
    "spec.compute.podTemplate.imagePullSecrets": "name",
    "status.conditions": "type",
    "status.evaluation": "set",
    "status.gates": "name",
    "status.attempts": "number",
}
_COLUMNS = (
    ("Status", "string", ".status.summary", 0, "For eyes; machines read conditions"),
    ("Percent", "integer", ".status.progress.percent", 0, "Tokens trained of the plan's"),
    ("Gain", "number", ".status.gain.mean", 0, "Nats per token on New sets; positive is better"),
    ("Forgetting", "number", ".status.forgetting.max", 0, "Nats per token on Retained sets; positive is worse"),
    ("Gates", "string", '.status.conditions[?(@.type=="GatesPassed")].status', 0, "Whether the gates passed"),
    ("Succeeded", "string", '.status.conditions[?(@.type=="Succeeded")].status', 0, "True: trained and judged"),
    ("Reason", "string", '.status.conditions[?(@.type=="Succeeded")].reason', 1, "Why"),
    ("Attempts", "integer", ".status.counts.attempts", 1, "Attempts made"),
    ("Tokens/s", "number", ".status.progress.tokensPerSecond", 1, "Speed"),
    ("ETA", "number", ".status.progress.etaSeconds", 1, "Seconds left"),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Since creation"),
)


def custom_resource_definition() -> dict[str, Any]:
    """The whole object, as an API server takes it."""
    names = {"plural": "continualruns", "singular": "continualrun", "shortNames": ["crun"], "categories": ["all"]}
    shown = [column(*given) for given in _COLUMNS]
    return definition(KIND, names, shown, _root(), subresources={"status": {}})


def definition(
    kind: str, names: dict[str, Any], columns: list[dict[str, Any]], root: dict[str, Any], **version: Any
) -> dict[str, Any]:
    """A definition of a kind of ours with one version, whose schema is `root`; `version`: what else stands there."""
    served = {"name": "v1alpha1", "served": True, "storage": True, **version}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.rewarm.dev"},
        "spec": {
            "group": "rewarm.dev",
            "scope": "Namespaced",
            "names": {"kind": kind, "listKind": kind + "List", **names},
            "versions": [{**served, "additionalPrinterColumns": columns, "schema": {"openAPIV3Schema": root}}],
        },
    }


def to_yaml() -> str:
    """The file `crds/continualruns.yaml`."""
    return to_text(custom_resource_definition(), _HEADER)


def to_text(whole: dict[str, Any], header: str) -> str:
    """The file of a definition."""
    text: str = yaml.dump(whole, Dumper=_Dumper, sort_keys=False, width=120)
    return header + text


def _root() -> dict[str, Any]:
    return {
        "description": "ContinualRun: re-warm, replay, and an honest verdict on what was forgotten.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this schema."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"type": "object"},
            "spec": model_schema("spec", RunSpec),
            "status": model_schema("status", RunStatus),
        },
        "x-kubernetes-validations": immutability(list(shapes(RunSpec))),
    }


def model_schema(path: str, model: type[Spec], description: str = "") -> dict[str, Any]:
    """The structural schema of a model that stands at `path`, whose rules of `crd_rules.py` it carries."""
    fields = shapes(model)
    schema: dict[str, Any] = {"description": description or _first_line(model), "type": "object"}
    required = [name for name, shape in fields.items() if shape.required]
    if required:
        schema["required"] = required
    schema["properties"] = {name: _field(f"{path}.{name}", shape) for name, shape in fields.items()}
    if path == "spec.replay":
        # A field has one type on a server: what cites a study stands beside the number (citation_form.py).
        schema["required"] = [name for name in schema["required"] if name != "ratio"]
        if not schema["required"]:
            del schema["required"]
        schema["properties"]["fromStudy"] = model_schema("spec.replay.fromStudy", StudyCitation)
    return _with_rules(path, schema)


def _field(path: str, shape: Shape) -> dict[str, Any]:
    if shape.model is not None:
        return model_schema(path, shape.model, shape.description)
    schema: dict[str, Any] = {"description": shape.description} if shape.description else {}
    schema |= _kept(shape.schema)
    if shape.items is not None:
        schema["items"] = _field(path + "[]", shape.items)
        if path in _LIST_KEYS:
            schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [_LIST_KEYS[path]]}
    for bound in ("Minimum", "Maximum"):
        if "exclusive" + bound in shape.schema:
            schema |= {bound.lower(): shape.schema["exclusive" + bound], "exclusive" + bound: True}
    if schema.get("type") == "integer":
        schema["format"] = "int64"
    if schema.get("x-kubernetes-int-or-string"):
        # 2^63-1 is no exact double, and no larger integer can be sent.
        schema.pop("maximum", None)
    if path == "spec.baseModel.scratch.config":
        kind = {"description": "A transformers model type.", "type": "string", "minLength": 1, "maxLength": 128}
        schema |= {"required": ["model_type"], "properties": {"model_type": kind}}
    return _with_rules(path, schema)


def _kept(schema: dict[str, Any]) -> dict[str, Any]:
    """What a structural schema has of this one, and of what stands in it."""
    kept = {key: value for key, value in schema.items() if key in _KEPT}
    if "properties" in schema:
        kept["properties"] = {name: _described(child) for name, child in schema["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            kept[inner] = _described(schema[inner])
    return kept


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in ("description",) if key in schema} | _kept(schema)


def _with_rules(path: str, schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"x-kubernetes-validations": RULES[path]} if path in RULES else schema


def _first_line(model: type[Spec]) -> str:
    return " ".join((model.__doc__ or "").split())


def column(name: str, kind: str, path: str, priority: int, description: str) -> dict[str, Any]:
    """A column of `kubectl get`; above priority 0 only with -o wide."""
    shown = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return shown | {"priority": priority} if priority else shown


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """Repeats shared parts instead of naming them: an API server's reader knows anchors, people's eyes do not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


if __name__ == "__main__":
    sys.stdout.write(to_yaml())
