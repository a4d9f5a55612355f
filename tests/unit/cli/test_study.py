"""`rewarm study` and `rewarm validate` on a study, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewarm_api.errors import ManifestError
from rewarm_cli.study import parse_places

EXAMPLE = Path(__file__).parents[3] / "examples/study.yaml"


def test_one_ratio_only_is_64_in_the_words_of_validate(rewarm):
    one = ("--set", "spec.grid.replayRatios=[0.25]", "--set", "spec.holdOut=null", "-o", "json")
    validated, studied = rewarm("validate", EXAMPLE, *one), rewarm("study", EXAMPLE, *one)
    assert (validated.code, studied.code) == (64, 64)
    assert validated.json == studied.json
    (problem,) = validated.json["problems"]
    assert problem["field"] == "spec.grid.replayRatios"


def test_a_run_where_a_study_is_expected_and_the_other_way_round(rewarm, manifest):
    assert rewarm("study", manifest()).code == 64
    for command in ("run", "plan"):
        refused = rewarm(command, EXAMPLE)
        assert refused.code == 64
        assert "rewarm study" in refused.err


def test_no_such_file_is_66(rewarm):
    assert rewarm("study", "nowhere.yaml").code == 66


def test_places_are_ratios_at_budgets():
    assert parse_places("") == []
    assert parse_places("0.3@20M,0@4096") == [(0.3, 20_000_000), (0.0, 4096)]


@pytest.mark.parametrize("text", ["0.3", "0.3@", "@20M", "1@20M", "-0.1@20M", "x@20M", "0.3@20Q", "0.3@1.5"])
def test_other_places_are_refused(text):
    with pytest.raises(ManifestError, match="RATIO@TOKENS"):
        parse_places(text)
