"""The arms of a leave-one-source-out study differ in one thing alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewarm_api import ablation
from rewarm_api.errors import ManifestError
from rewarm_api.manifest import read_manifest
from rewarm_api.resolve import resolve
from rewarm_api.validate import validate

SOURCES = [
    {"name": name, "uri": f"{name}.txt", "license": "MIT", "weight": weight} for name, weight in (("a", 1), ("b", 3))
]


@pytest.fixture
def branch(minimal: dict[str, Any]) -> dict[str, Any]:
    document = copy.deepcopy(minimal)
    document["spec"] |= {
        "baseModel": {"run": {"path": "trunk", "checkpoint": 32, "anneal": {"length": "100%"}}},
        "corpus": {"sources": SOURCES},
    }
    return document


def test_arms_differ_in_their_weights_alone(branch: dict[str, Any]) -> None:
    before = copy.deepcopy(branch)
    arms = ablation.leave_one_out(branch)
    assert branch == before
    assert {name: arm["spec"]["phases"][0]["weights"] for name, arm in arms.items()} == {
        "minimal-all": {"a": 1, "b": 3},
        "minimal-no-a": {"a": 0, "b": 3},
        "minimal-no-b": {"a": 1, "b": 0},
    }
    snapshots = []
    for name, arm in arms.items():
        run = validate(arm, local=True).run
        assert run is not None
        value = resolve(run, uid="u").experiment()
        assert (
            value.pop("name") == value["tracking"].pop("experiment") == value["tracking"].pop("registeredModel") == name
        )
        value.pop("phases")
        snapshots.append(value)
    assert snapshots[0] == snapshots[1] == snapshots[2]


def test_arms_are_written_beside_the_manifest(
    branch: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "branch.yaml"
    file.write_text(yaml.safe_dump(branch))
    assert ablation.main([str(file)]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == ["minimal-all.yaml", "minimal-no-a.yaml", "minimal-no-b.yaml"]
    assert {str(path): read_manifest(path) for path in paths} == {
        str(tmp_path / f"{name}.yaml"): arm for name, arm in ablation.leave_one_out(branch).items()
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda spec: spec["baseModel"]["run"].pop("anneal"), "spec.baseModel.run.anneal"),
        (lambda spec: spec.update(phases=[{"name": "x", "share": "100%"}]), "spec.phases"),
        (lambda spec: spec["corpus"].update(sources=SOURCES[:1]), "spec.corpus.sources"),
        (
            lambda spec: spec["corpus"].update(sources=[{**each, "weight": None} for each in SOURCES]),
            "spec.corpus.sources[0].weight",
        ),
        (lambda spec: spec["budget"].update(tokens=-1), "spec.budget.tokens"),
    ],
)
def test_what_makes_no_study_is_refused(
    branch: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, field: str
) -> None:
    change(branch["spec"])
    with pytest.raises(ManifestError) as caught:
        ablation.leave_one_out(branch)
    assert field in {problem.field for problem in caught.value.problems}
    file = tmp_path / "branch.yaml"
    file.write_text(yaml.safe_dump(branch))
    assert ablation.main([str(file)]) == 64
    assert field in capsys.readouterr().err
