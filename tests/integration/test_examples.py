"""The examples of phases, methods and branches, run as they are written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rewarm_world import World

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def examples(world: World) -> Path:
    """A folder that looks like this repository: an example's texts are the repository's own."""
    root = world.root / "repository"
    root.mkdir()
    for part in ("api", "trainer", "cli", "docs"):
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


def run_example(world: World, examples: Path, name: str) -> dict[str, Any]:
    done = world.rewarm("run", examples / f"{name}.yaml", "--workdir", examples.parent / "runs" / name, "-o", "json")
    assert done.code == 0, done.err
    report: dict[str, Any] = done.json
    return report


def weights_of(report: dict[str, Any]) -> list[dict[str, float]]:
    return [each["weights"] for each in report["decisions"] if "weights" in each]


@pytest.fixture(scope="module")
def finished(world: World, examples: Path) -> dict[str, Any]:
    """The run of finish.yaml, which others begin from."""
    return run_example(world, examples, "finish")


@pytest.mark.slow
def test_a_subset_is_passed_through_several_times(world: World, examples: Path) -> None:
    report = run_example(world, examples, "subset")
    assert report["sets"]["new"]["delta"]["mean"] < -0.5
    assert report["tokens"]["by_source"]["new"] > report["tokens"]["by_source"]["old"]


@pytest.mark.slow
def test_weights_and_ratio_follow_the_looks(world: World, examples: Path) -> None:
    report = run_example(world, examples, "adaptive")
    weights = weights_of(report)
    assert all(each.keys() == {"cli", "trainer"} for each in weights)
    assert any(each["trainer"] > 0.5 for each in weights), "the source that helps another gets more"
    assert "sampleWeights" in (examples / "adaptive.yaml").read_text()


@pytest.mark.slow
def test_weights_follow_what_was_forgotten(world: World, examples: Path, finished: dict[str, Any]) -> None:
    weights = weights_of(run_example(world, examples, "discrepancy"))
    assert weights
    for moved in weights:
        assert sum(moved[name] for name in ("cli", "pages")) == pytest.approx(1, abs=1e-5)
        assert sum(moved[name] for name in ("old", "trainer")) == pytest.approx(1, abs=1e-5)
        assert min(moved.values()) >= 0.25 - 1e-6, "smoothing spreads half of the rows over two sources"


@pytest.mark.slow
def test_a_residual_brings_the_form_that_was_not_trained(
    world: World, examples: Path, finished: dict[str, Any]
) -> None:
    taught = run_example(world, examples, "instruct")["sets"]["pages"]["delta"]
    report = run_example(world, examples, "residual")
    assert report["tokens"]["by_source"]["pages"] == 0
    raw, moved = (part["sets"]["pages"]["delta"]["mean"] for part in (report["finish"]["raw"], report))
    assert moved < raw, "the residual lowers the loss on the form"
    assert moved < 0 > taught["mean"]


@pytest.mark.slow
def test_a_soup_lies_between_its_ingredients(world: World, examples: Path, finished: dict[str, Any]) -> None:
    run_example(world, examples, "instruct")
    report = run_example(world, examples, "soup")
    (made,) = report["finish"]["steps"]
    assert made["kind"] == "soup"
    raw, mean = (part["sets"]["trainer"]["delta"]["mean"] for part in (report["finish"]["raw"], report))
    assert raw < mean < 0, "half of the way to a model that never saw this text"


@pytest.mark.slow
def test_the_better_half_of_a_scored_corpus_in_ascending_order(world: World, examples: Path) -> None:
    made = subprocess.run([sys.executable, examples / "score.py"], capture_output=True, check=True)
    (examples / "scored.jsonl").write_bytes(made.stdout)
    report = run_example(world, examples, "quality")
    assert report["sets"]["new"]["delta"]["mean"] < -0.5
    assert not any("scending" in warning for warning in report["warnings"]), "the rate does not decay"


def test_python_finds_the_study(world: World) -> None:
    """The command of the documents."""
    done = subprocess.run([sys.executable, "-m", "rewarm_api.ablation"], env=world.environment, capture_output=True)
    assert (done.returncode, done.stderr.startswith(b"usage:")) == (64, True)
