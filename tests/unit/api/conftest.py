"""Manifests that the api's tests start from, and one way to change and check them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewarm_api.manifest import load_yaml, read_manifest, set_path
from rewarm_api.study_rules import StudyValidation, validate_study
from rewarm_api.validate import Validation, validate

HERE = Path(__file__).parent


@pytest.fixture
def minimal() -> dict[str, Any]:
    """A manifest of 15 lines that a local run takes."""
    return read_manifest(HERE / "minimal.yaml")


@pytest.fixture
def full() -> dict[str, Any]:
    """Every field that works, for a cluster."""
    return read_manifest(HERE / "full.yaml")


def changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The document with YAML texts set at paths; None deletes the field."""
    result = copy.deepcopy(document)
    for path, text in changes.items():
        if text is None:
            *parents, last = path.split(".")
            place = result
            for parent in parents:
                place = place[parent]
            del place[last]
        else:
            set_path(result, path, text)
    return result


@pytest.fixture
def check(minimal: dict[str, Any]) -> Callable[..., Validation]:
    """Validates the minimal manifest after changes: check({"spec.budget.tokens": "1"})."""

    def validated(changes: dict[str, Any], local: bool | None = True) -> Validation:
        return validate(changed(minimal, changes), local=local)

    return validated


@pytest.fixture
def yaml() -> Callable[[str], Any]:
    return load_yaml


@pytest.fixture
def check_study() -> Callable[..., StudyValidation]:
    """Validates `study.yaml` after changes."""

    def validated(changes: dict[str, Any], local: bool | None = True) -> StudyValidation:
        return validate_study(changed(read_manifest(HERE / "study.yaml"), changes), local=local)

    return validated
