"""The committed CRD is the models', whole and bounded. What a server makes of it: tests/integration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewarm_api.crd import MAXIMUM_BYTES, custom_resource_definition, to_yaml
from rewarm_api.crd_rules import ALWAYS_MUTABLE, RULES
from rewarm_api.manifest import read_manifest
from rewarm_api.run import RunSpec
from rewarm_api.shape import shapes
from rewarm_api.status import RunStatus

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / "crds/continualruns.yaml"
FREE = {
    "spec.baseModel.scratch.config",
    "spec.compute.podTemplate.tolerations[]",
    "spec.compute.podTemplate.affinity",
    "spec.compute.podTemplate.volumes[]",
}
"""The only places whose children the schema does not know."""
ANY_VALUE = {"spec.finish[].interpolate.towardsBase"}
"""Auto or a fraction: no type of a structural schema is both."""


@pytest.fixture(scope="module")
def version() -> dict[str, Any]:
    return custom_resource_definition()["spec"]["versions"][0]


@pytest.fixture(scope="module")
def root(version) -> dict[str, Any]:
    return version["schema"]["openAPIV3Schema"]


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below, with its path; `[]` is an item, `{}` a value of a map."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}".removeprefix("."))
    if "items" in schema:
        yield from nodes(schema["items"], path + "[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], path + "{}")


def test_the_committed_crd_is_fresh():
    command = [sys.executable, "-m", "rewarm_api.crd"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT / "api")})
    assert made.stdout == to_yaml()
    assert COMMITTED.read_text() == made.stdout, "stale: run `python -m rewarm_api.crd > crds/continualruns.yaml`"
    assert yaml.safe_load(made.stdout) == custom_resource_definition()


def test_the_crd_fits_into_the_annotation_of_kubectl_apply():
    assert COMMITTED.stat().st_size < MAXIMUM_BYTES


def test_names_and_subresources(version):
    spec = custom_resource_definition()["spec"]
    assert spec["names"]["shortNames"] == ["crun"]
    assert spec["names"]["categories"] == ["all"], "`kubectl get all` shows runs"
    assert spec["scope"] == "Namespaced"
    assert version["subresources"] == {"status": {}}


def test_everything_is_bounded_and_described(root):
    for path, schema in nodes(root, ""):
        if path in ("", "metadata", "apiVersion", "kind"):
            continue
        if path in ANY_VALUE:
            assert schema["x-kubernetes-preserve-unknown-fields"]
            assert schema["description"]
            continue
        kind = schema.get("type", "int-or-string")
        assert kind in ("object", "array", "string", "integer", "number", "boolean", "int-or-string"), path
        if kind == "string" and "enum" not in schema:
            assert "maxLength" in schema, path
        if kind == "array":
            assert "maxItems" in schema, path
        if kind == "int-or-string":
            assert schema["x-kubernetes-int-or-string"], path
            assert {"maxLength", "minimum", "pattern"} <= set(schema), path
        if kind == "object":
            free = path in FREE or path.startswith(tuple(place + "." for place in FREE))
            assert free == bool(schema.get("x-kubernetes-preserve-unknown-fields")), path
            assert free or "properties" in schema or {"additionalProperties", "maxProperties"} <= set(schema), path
        assert "default" not in schema, path
        assert "anyOf" not in schema, path
        assert schema.get("description") or path.endswith(("[]", "{}")), path


def test_the_schema_has_the_fields_of_the_models(root):
    assert list(root["properties"]["spec"]["properties"]) == list(shapes(RunSpec))
    assert list(root["properties"]["status"]["properties"]) == list(shapes(RunStatus))


def test_every_rule_has_its_place(root):
    placed = {path for path, schema in nodes(root, "") if "x-kubernetes-validations" in schema}
    assert placed == {"", *RULES}
    for path, schema in nodes(root, ""):
        for rule in schema.get("x-kubernetes-validations", []):
            assert rule["message"], path
            assert "\n" not in rule["rule"]


def test_every_field_is_either_mutable_or_guarded(root):
    guarded = {rule.get("fieldPath") for rule in root["x-kubernetes-validations"]} - {None}
    assert guarded == {f".spec.{name}" for name in shapes(RunSpec) if name not in ALWAYS_MUTABLE}


def test_columns_read_conditions_by_type_and_never_by_position(version):
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    assert any('[?(@.type=="Succeeded")]' in path for path in paths)
    assert not [path for path in paths if "[0]" in path or "[-1" in path]


def test_list_maps_name_their_key(root):
    keys = {
        path: schema["x-kubernetes-list-map-keys"]
        for path, schema in nodes(root, "")
        if schema.get("x-kubernetes-list-type") == "map"
    }
    assert keys["status.conditions"] == ["type"]
    assert keys["status.evaluation"] == ["set"]
    assert keys["status.attempts"] == ["number"]
    assert keys["spec.corpus.sources"] == ["name"]


def test_the_status_of_the_contract_is_the_models():
    document = read_manifest(Path(__file__).parent / "status.yaml")
    status = RunStatus.model_validate(document)
    assert status.model_dump(mode="json", by_alias=True, exclude_unset=True) == document
    assert set(shapes(RunStatus)) == {*document, "snapshotDigest", "trainingSeconds", "committedStep"}
