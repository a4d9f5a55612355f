"""`rewarm run` on the minimal manifest, as a person starts it: streams, exit codes, and starting it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "examples" / "minimal.yaml"


@pytest.fixture
def rewarm(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rewarm_cli", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_the_minimal_manifest_ends_in_a_report(rewarm, tmp_path):
    small = ("--set", "spec.budget.tokens=20K")
    first = rewarm("run", MANIFEST, *small)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "runs" / "minimal"
    assert first.stdout == f"{folder / 'report.json'}\n"
    assert "step 5/5" in first.stderr
    assert "\x1b" not in first.stderr

    report = json.loads((folder / "report.json").read_text())
    assert (report["outcome"], report["tokens"]["trained"]) == ("Succeeded", 20_480)
    assert report["tokens"]["by_source"] == {"new": 15_360, "old": 5120}
    assert set(report["sets"]) == {"new", "old"}

    again = rewarm("run", MANIFEST, *small, "-o", "json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == report

    other = rewarm("run", MANIFEST, *small, "--set", "spec.replay.ratio=0.5")
    assert (other.returncode, other.stdout) == (64, "")
    assert "ratio" in other.stderr
    assert "--workdir" in other.stderr

    exported = rewarm("export", folder, tmp_path / "model")
    assert (exported.returncode, exported.stdout) == (0, f"{tmp_path / 'model'}\n")
    compared = rewarm("compare", folder, folder, "-o", "json")
    assert compared.returncode == 0, compared.stderr
    assert all(item["delta"]["mean"] == 0 for item in json.loads(compared.stdout)["sets"].values())


def test_a_plan_in_epochs_counts_the_corpus_and_trains_nothing(rewarm, tmp_path):
    finished = rewarm("plan", MANIFEST, "--set", "spec.budget={epochs: 1}", "--at", "0", "-o", "json")
    assert finished.returncode == 0, finished.stderr
    plan = json.loads(finished.stdout)
    new = plan["sources"]["new"]
    # One epoch of the corpus, rounded up to a whole step of 32 rows, three quarters of them new.
    assert 1 <= new["epochs"] <= 1 + 24 / (new["rows"] / new["epochs"]) + 1e-9
    assert plan["tokens"] == plan["steps"] * plan["tokens_per_step"]
    assert not (tmp_path / "runs").exists()


def test_a_missing_corpus_is_66_and_leaves_a_report_that_says_so(rewarm, tmp_path):
    finished = rewarm("run", MANIFEST, "--set", "spec.corpus.sources[0].uri=none/*.py", "-o", "json")
    assert finished.returncode == 66
    assert "none/*.py" in finished.stderr
    report = json.loads(finished.stdout)
    assert report["outcome"] == "MissingInput"
    assert "none/*.py" in report["message"]
