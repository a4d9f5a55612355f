"""What the documents show must be what the program takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid_without_warnings(rewarm, path):
    assert rewarm("validate", path, "-o", "json").json == {"valid": True, "problems": [], "warnings": []}


def test_the_minimal_manifest_has_at_most_15_lines_and_stands_in_the_readme():
    manifest = (ROOT / "examples/minimal.yaml").read_text()
    assert len(manifest.splitlines()) <= 15
    assert f"```yaml\n{manifest}```" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/quickstart.md"])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_arm_without_replay_still_measures_the_old_text(rewarm):
    path = ROOT / "examples/quickstart.yaml"
    facts = rewarm("plan", path, "--set", "spec.replay.ratio=0", "-o", "json").json
    assert facts["sources"]["general"]["rows"] == 0
    assert {(item["name"], item["role"]) for item in facts["evaluation"]["sets"]} == {
        ("code", "New"),
        ("general", "Retained"),
    }


def test_arms_differ_in_their_mixture_alone(rewarm):
    replay = rewarm("plan", ROOT / "examples/quickstart.yaml", "-o", "json").json
    control = rewarm("plan", ROOT / "examples/quickstart-control.yaml", "-o", "json").json
    assert replay["segments"] == control["segments"]
    assert replay["tokens"] == control["tokens"]
    assert {item["name"]: item["role"] for item in control["evaluation"]["sets"]} == {
        "code": "New",
        "general": "Retained",
    }


def test_a_plan_says_what_may_move_its_mixture(rewarm):
    path = ROOT / "examples/adaptive.yaml"
    weighed = rewarm("plan", path, "-o", "json").json
    assert weighed["controllers"] == {
        "replay_ratio": {"minimum": 0.05, "maximum": 0.5, "forgetting_budget": 0.02},
        "weights": {"rule": "skillGraph", "every": 20070},
    }
    words = rewarm("plan", path).out
    assert "replay starts at 25.00% and moves between 5.00% and 50.00%" in words
    assert "weights of sources start even and follow skillGraph" in words
    plain = rewarm("plan", ROOT / "examples/quickstart.yaml", "-o", "json").json
    assert plain["controllers"] == {"replay_ratio": None, "weights": None}
