"""The runs that a skill graph is learned from: every source alone, and every pair, with equal tokens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewarm_api import skills
from rewarm_api.errors import ManifestError
from rewarm_api.validate import validate


@pytest.fixture
def document(minimal: dict[str, Any]) -> dict[str, Any]:
    value = copy.deepcopy(minimal)
    value["spec"]["corpus"] = {"sources": [{"name": name, "uri": f"{name}.txt", "license": "MIT"} for name in "abc"]}
    return value


def test_every_source_alone_and_every_pair(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    runs = skills.learning_runs(document)
    assert document == before
    assert {name: run["spec"]["phases"][0]["weights"] for name, run in runs.items()} == {
        "minimal-only-a": {"a": 1, "b": 0, "c": 0},
        "minimal-only-b": {"a": 0, "b": 1, "c": 0},
        "minimal-only-c": {"a": 0, "b": 0, "c": 1},
        "minimal-a-and-b": {"a": 1, "b": 1, "c": 0},
        "minimal-a-and-c": {"a": 1, "b": 0, "c": 1},
        "minimal-b-and-c": {"a": 0, "b": 1, "c": 1},
    }
    for name, run in runs.items():
        assert validate(run, local=True).valid
        assert run["metadata"]["name"] == name
        assert run["spec"]["budget"] == document["spec"]["budget"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"phases": [{"name": "x", "share": "100%"}]}, "spec.phases: found"),
        ({"mixture": {"skillGraph": {}}}, "spec.mixture: found"),
        ({"corpus": {"sources": [{"name": "a", "uri": "a.txt"}]}}, "spec.corpus.sources: found one source"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(document: dict[str, Any], change: Any, problem: str) -> None:
    document["spec"] |= change
    with pytest.raises(ManifestError, match=problem):
        skills.learning_runs(document)


def test_a_name_too_long_for_its_runs_is_refused(document: dict[str, Any]) -> None:
    document["metadata"]["name"] = "n" * 36
    with pytest.raises(ManifestError, match=r"metadata\.name: found n{36}-only-a, expected at most 40 characters"):
        skills.learning_runs(document)


def test_the_program_writes_them_beside_the_manifest(
    document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    assert skills.main([str(tmp_path / "run.yaml")]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.stem for path in printed] == list(skills.learning_runs(document))
    assert all(path.parent == tmp_path and path.exists() for path in printed)
    assert skills.main([]) == 64
