"""The examples of phases, methods and branches, run as they are written."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from rewarm_world import World

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def examples(world: World) -> Path:
    """A folder that looks like this repository: an example's texts are the repository's own."""
    root = world.root / "repository"
    root.mkdir()
    for part in ("api", "trainer", "docs"):
        (root / part).symlink_to(ROOT / part)
    shutil.copytree(ROOT / "examples", root / "examples")
    return root / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phases", "meta-experience"])
def test_examples_run(world: World, examples: Path, name: str) -> None:
    done = world.rewarm("run", examples / f"{name}.yaml", "--workdir", examples.parent / "runs" / name, "-o", "json")
    assert done.code == 0, done.err
    report = done.json
    assert sum(phase["tokens"][source] for phase in report["phases"] for source in phase["tokens"]) == 79 * 2048
    assert max(line["delta"]["mean"] for line in report["sets"].values()) < -0.5, "it learned"


@pytest.mark.slow
def test_a_branch_and_its_arms_without_one_source(world: World, examples: Path) -> None:
    runs = examples.parent / "runs"
    assert world.rewarm("run", examples / "trunk.yaml", "--workdir", runs / "trunk").code == 0
    from rewarm_api.ablation import main

    assert main([str(examples / "branch.yaml")]) == 0
    tokens, losses = {}, {}
    for arm in ("branch-all", "branch-no-trainer", "branch-no-pages"):
        done = world.rewarm("run", examples / f"{arm}.yaml", "--workdir", runs / arm, "-o", "json")
        assert done.code == 0, done.err
        tokens[arm] = done.json["tokens"]["by_source"]
        losses[arm] = {name: value["final"]["loss"] for name, value in done.json["sets"].items()}
    assert {sum(counts.values()) for counts in tokens.values()} == {20 * 2048}
    assert (tokens["branch-no-trainer"]["trainer"], tokens["branch-no-pages"]["pages"]) == (0, 0)
    assert losses["branch-no-trainer"]["trainer"] > losses["branch-all"]["trainer"]
    assert losses["branch-no-pages"]["pages"] > losses["branch-all"]["pages"]


def test_python_finds_the_study(world: World) -> None:
    """The command of the documents."""
    import subprocess

    done = subprocess.run([sys.executable, "-m", "rewarm_api.ablation"], env=world.environment, capture_output=True)
    assert (done.returncode, done.stderr.startswith(b"usage:")) == (64, True)
