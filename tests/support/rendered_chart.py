"""The chart as Helm renders it, without a cluster: objects, and the rights in them."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "rewarm"

Object = dict[str, Any]
Rule = tuple[str, str, str]
"""API group, resource, verb."""


def render(values: dict[str, Any] | None = None, *, name: str = "rewarm", namespace: str = "rewarm") -> list[Object]:
    """Every object of a release, hooks too. Raises what Helm raises on bad values."""
    return copy.deepcopy(_rendered(json.dumps(values or {}), name, namespace))


@cache
def _rendered(values: str, name: str, namespace: str) -> list[Object]:
    """Kept: the keys of a certificate and the CRD take a third of a second each time."""
    with helm.Chart.load(CHART) as chart:
        files = chart.render(json.loads(values), name=name, namespace=namespace)
    return [
        document
        for path, text in sorted(files.items())
        if path.endswith(".yaml")
        for document in yaml.load_all(text, Loader=yaml.CSafeLoader)
        if document
    ]


def of_kind(objects: list[Object], kind: str, name: str = "") -> list[Object]:
    """Those of one kind, and of one name where it is given."""
    return [item for item in objects if item["kind"] == kind and name in ("", item["metadata"]["name"])]


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    """The only object of a kind (and name)."""
    (item,) = of_kind(objects, kind, name)
    return item


def rules(role: Object) -> set[Rule]:
    """What a Role or ClusterRole allows, one by one."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def rights(objects: list[Object]) -> list[Object]:
    """The objects that give the operator its rights, in the order in which they can be applied."""
    kinds = ("ServiceAccount", "ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding")
    return [item for kind in kinds for item in of_kind(objects, kind)]
