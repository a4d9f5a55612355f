"""`rewarm study` on the example: real runs, a kill in the middle, a citation of the law, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rewarm_trainer.runlog import read_records

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "study.yaml"
SMALL = "{model_type: llama, hidden_size: 32, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 2}"
BASE = ROOT / "examples" / "study-base.yaml"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def start(here):
    environment = {**os.environ, "XDG_CACHE_HOME": str(here / "cache"), "OMP_NUM_THREADS": "1"}

    def started(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rewarm_cli", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=here, env=environment, stdout=pipe, stderr=pipe, text=True)

    return started


@pytest.fixture(scope="module")
def rewarm(start):
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        process = start(*arguments)
        out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


def attempts(work: Path) -> int:
    return sum(record.get("event") == "attempt started" for record in read_records(work / "log.jsonl"))


@pytest.fixture(scope="module")
def changes(here, rewarm):
    """Options that point the example at a base of its own, trained here."""
    base = here / "studies" / "base"
    made = rewarm("run", BASE, "--workdir", base)
    assert made.returncode == 0, made.stderr
    return ("--set", f"spec.template.spec.baseModel.run.path={base}")


@pytest.fixture(scope="module")
def studied(here, start, rewarm, changes):
    """A study that was killed after its first run, and then went on: its folder, and what the second start printed."""
    folder = here / "studies" / "study"
    process = start("study", EXAMPLE, *changes)
    for line in process.stderr:
        if line.endswith(": finished\n"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "study.json").exists()
    first, *_ = [path.parent for path in folder.glob("runs/*/report.json")]
    finished = rewarm("study", EXAMPLE, *changes, "--at", "0.2@20480", "-o", "json")
    assert finished.returncode == 0, finished.stderr
    assert attempts(first) == 1
    return folder, json.loads(finished.stdout), finished.stderr


@pytest.mark.slow
def test_a_killed_study_goes_on_and_answers(studied):
    folder, artefact, said = studied
    assert re.search("6 runs, [12] finished", said)
    assert [run["replay_ratio"] for run in artefact["runs"]] == [0.05, 0.1, 0.25, 0.5, 0.75, 0.35]
    for run in artefact["runs"]:
        report = json.loads((folder / "runs" / run["label"] / "report.json").read_text())
        assert run["losses"] == {name: value["final"]["loss"] for name, value in report["sets"].items()}
        assert report["promotion"]["promoted"] is False
    assert {key: artefact[key] for key in ("outcome", "tolerance", "name")} == {
        "outcome": "Succeeded", "tolerance": "1%", "name": "study",
    }  # fmt: skip
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")
    (predicted,) = artefact["predicted"]
    for name, value in predicted["sets"].items():
        assert value["low"] < value["loss"] < value["high"], name


@pytest.mark.slow
def test_the_baseline_was_scored_once_and_the_corpora_prepared_once(studied, here):
    folder, artefact, _ = studied
    assert len(list((here / "cache" / "rewarm" / "baselines").rglob("*.json"))) == 3  # one of the base itself
    for name in artefact["sets"]:
        texts = {
            (folder / "runs" / run["label"] / "state/baseline" / f"{name}.json").read_text() for run in artefact["runs"]
        }
        assert len(texts) == 1


@pytest.mark.slow
def test_the_held_out_ratio_is_predicted(studied):
    _, artefact, _ = studied
    for name, laws in artefact["laws"].items():
        (law,) = laws["cmr"]
        assert law["hold_out"]["by"] == "HeldOut"
        losses = [run["losses"][name] for run in artefact["runs"]]
        assert law["hold_out"]["largest"] < 0.25 * (max(losses) - min(losses)), name


@pytest.mark.slow
def test_the_law_is_an_artefact_of_an_mlflow_run(studied):
    folder, artefact, _ = studied
    kept = {path.name: path for path in (folder / "mlartifacts").rglob("study.*")}
    assert set(kept) == {"study.json", "study.png"}
    assert json.loads(kept["study.json"].read_text())["digest"] == artefact["digest"]


@pytest.mark.slow
def test_a_finished_study_answers_at_once_and_refuses_to_extrapolate(studied, rewarm, changes):
    folder, artefact, _ = studied
    again = rewarm("study", EXAMPLE, *changes, "--at", "0.9@20480")
    assert again.returncode == 64
    assert "as measured" in again.stderr
    assert "started" not in again.stderr
    assert json.loads((folder / "study.json").read_text())["digest"] == artefact["digest"]


@pytest.mark.slow
def test_another_template_is_refused_by_the_runs_that_exist(studied, rewarm, changes):
    changed = rewarm("study", EXAMPLE, *changes, "--set", "spec.template.spec.schedule.peakLearningRate=5e-4")
    assert changed.returncode == 64
    assert "peakLearningRate" in changed.stderr


@pytest.fixture(scope="module")
def citing(here) -> Path:
    """The example that cites the study, on the text and the base of the one that ran here."""
    document = yaml.safe_load((ROOT / "examples" / "citing.yaml").read_text())
    spec = document["spec"]
    for group in (spec["corpus"], spec["replay"]):
        for source in group["sources"]:
            source["uri"] = str((EXAMPLE.parent / source["uri"]).resolve())
    spec["baseModel"]["run"]["path"] = str(here / "studies" / "base")
    path = here / "citing.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.slow
def test_a_run_takes_its_ratio_from_the_study(studied, citing, rewarm):
    _, artefact, _ = studied
    plan = json.loads(rewarm("plan", citing, "-o", "json").stdout)
    finished = rewarm("run", citing, "-o", "json")
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["replay"]["requested"] == plan["replay_ratio"] == plan["cited"]["ratio"]
    assert report["replay"]["cited"]["digest"] == artefact["digest"]
    assert any("study" in remark for remark in report["remarks"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("spec.corpus.sources[0].uri=" + str(ROOT / "cli/rewarm_cli/*.py"), "corpora"),
        (f"spec.baseModel={{scratch: {{config: {SMALL}, tokenizer: {{vocabularySize: 400}}}}}}", "tokenizer"),
    ],
)
def test_a_law_of_something_else_is_refused(studied, here, citing, rewarm, change, words):
    refused = rewarm("run", citing, "--workdir", here / words, "--set", change)
    assert refused.returncode == 64, refused.stderr
    assert words in refused.stderr


@pytest.mark.slow
def test_a_run_that_fails_ends_the_study_with_its_code(here, rewarm, changes):
    missing = ("--set", "spec.template.spec.corpus.sources[0].uri=none/*.py", "--workdir", here / "missing")
    failed = rewarm("study", EXAMPLE, *changes, *missing)
    assert failed.returncode == 66
    assert "none/*.py" in failed.stderr
    assert not (here / "missing" / "study.json").exists()
