"""`rewarm study` on the example: real runs, a kill in the middle, a citation of the law, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from rewarm_api.defaults import Defaults
from rewarm_api.manifest import read_manifest, set_path
from rewarm_api.reported import Termination
from rewarm_api.resolve import resolve
from rewarm_api.validate import validate
from rewarm_trainer.runlog import read_records
from rewarm_trainer.stored import StoredRun
from rewarm_trainer.workdir import WorkFolder, read_snapshot

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
    assert [run["replay_ratio"] for run in artefact["runs"]] == [0, 0.1, 0.25, 0.5, 0.75, 0.35]
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


def _citing(folder: Path, **changes: object) -> Path:
    study = yaml.safe_load(EXAMPLE.read_text())["spec"]["template"]["spec"]
    for group in (study["corpus"], study["replay"]):
        for source in group["sources"]:
            source["uri"] = str((EXAMPLE.parent / source["uri"]).resolve())
    study["baseModel"] = {"run": {"path": str(folder / "studies" / "base")}}
    study["replay"]["ratio"] = {"fromStudy": "study", "tolerance": "1%"}
    document = {"apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun", "metadata": {"name": "citing"}}
    path = folder / "citing.yaml"
    path.write_text(yaml.safe_dump({**document, "spec": {**study, "budget": {"tokens": 20000}, **changes}}))
    return path


@pytest.mark.slow
def test_a_run_takes_its_ratio_from_the_study(studied, here, rewarm):
    _, artefact, _ = studied
    manifest = _citing(here)
    plan = json.loads(rewarm("plan", manifest, "-o", "json").stdout)
    finished = rewarm("run", manifest, "-o", "json")
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
def test_a_law_of_something_else_is_refused(studied, here, rewarm, change, words):
    refused = rewarm("run", _citing(here), "--workdir", here / words, "--set", change)
    assert refused.returncode == 64, refused.stderr
    assert words in refused.stderr


@pytest.mark.slow
def test_a_run_that_fails_ends_the_study_with_its_code(here, rewarm, changes):
    missing = ("--set", "spec.template.spec.corpus.sources[0].uri=none/*.py", "--workdir", here / "missing")
    failed = rewarm("study", EXAMPLE, *changes, *missing)
    assert failed.returncode == 66
    assert "none/*.py" in failed.stderr
    assert not (here / "missing" / "study.json").exists()


CLUSTER = {
    "spec.template.spec.baseModel": "{s3: {uri: s3://models/base/}}",
    "spec.template.spec.corpus.sources[0].uri": "s3://texts/code/*.txt",
    "spec.template.spec.replay.sources[0].uri": "s3://texts/prose/*.txt",
    "spec.template.spec.checkpoints": "{uri: 'claim://runs/team/'}",
}


@pytest.fixture(scope="module")
def stored(studied, here):
    """What the study's runs would have left on a claim, had they been trained by pods: the root of the claims."""
    folder, _, _ = studied
    claims = here / "claims"
    (claims / "runs").mkdir(parents=True)
    before = os.environ.get("REWARM_CLAIMS")
    os.environ["REWARM_CLAIMS"] = str(claims)
    for path in sorted((folder / "runs").iterdir()):
        work = WorkFolder(path)
        StoredRun.of(work, f"claim://runs/team/{read_snapshot(work).name}/").save()
    if before is None:
        del os.environ["REWARM_CLAIMS"]
    return claims


@pytest.fixture
def fit(stored, tmp_path):
    """The fit pod: its exit code, its last words and its log."""

    def run(**changes: str) -> tuple[int, Termination | None, str]:
        document = read_manifest(EXAMPLE)
        for path, text in {**CLUSTER, **changes}.items():
            set_path(document, path, text)
        document["metadata"]["namespace"] = "team"
        home = Path(tempfile.mkdtemp(dir=tmp_path))
        defaults = {"checkpoints_uri": "", "cache_uri": "", "tracking_uri": f"sqlite:///{home}/mlflow.db"}
        asked = {"study": document, "uid": "uid-of-the-study", "defaults": {**defaults, "namespace": "team"}}
        (home / "study.json").write_text(json.dumps(asked))
        environment = {
            **os.environ, "REWARM_CONFIG": str(home), "REWARM_HOME": str(home), "REWARM_CLAIMS": str(stored),
            "REWARM_TERMINATION_LOG": str(home / "termination-log"), "HOME": str(home),
        }  # fmt: skip
        command = [sys.executable, "-m", "rewarm_trainer.pod", "study"]
        ended = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
        text = (home / "termination-log").read_text()
        assert len(text.encode()) < 4096
        return ended.returncode, Termination.parse(text), ended.stderr

    return run


@pytest.mark.slow
def test_a_fit_pod_finds_what_this_machine_found(studied, stored, fit):
    _, artefact, _ = studied
    code, said, log = fit()
    assert code == 0, log
    assert said is not None
    assert said.study is not None
    kept = json.loads((stored / "runs/team/study/study.json").read_text())
    assert kept["answers"] == artefact["answers"]
    assert kept["laws"] == artefact["laws"]
    assert kept["uid"] == "uid-of-the-study"
    assert (stored / "runs/team/study/study.png").read_bytes().startswith(b"\x89PNG")
    assert said.study.artefact.uri == "claim://runs/team/study/study.json"
    assert said.study.artefact.digest == kept["digest"]
    (answer,) = said.study.answers.largest_share
    (whole,) = artefact["answers"]["largest_share"]
    assert (answer.replay_ratio, answer.tokens, answer.tolerance) == (whole["replay_ratio"], whole["tokens"], "1%")
    if whole["low"] is not None:
        assert answer.low == pytest.approx(1 - whole["high"], abs=1e-6)
    assert {item.set for item in said.study.answers.sets} == set(artefact["sets"])


@pytest.mark.slow
def test_a_fit_pod_started_again_says_the_same_and_fits_nothing(fit):
    assert fit()[0] == 0
    code, said, log = fit()
    assert (code, said and said.outcome) == (0, "Succeeded")
    assert "fitting the laws" not in log


@pytest.mark.slow
def test_a_fit_pod_asked_anew_fits_anew(fit):
    code, said, log = fit(**{"spec.tolerance": "2%"})
    assert code == 0, log
    assert "fitting the laws" in log
    assert said is not None
    assert said.study is not None
    assert said.study.answers.largest_share[0].tolerance == "2%"


@pytest.mark.slow
def test_a_run_that_left_nothing_is_missing_input(stored, fit):
    report = stored / "runs/team/study-r0-5-t20000/run/report.json"
    kept = report.read_bytes()
    report.unlink()
    code, said, _ = fit()
    report.write_bytes(kept)
    assert code == 66
    assert said is not None
    assert said.outcome == "MissingInput"
    assert "study-r0-5-t20000" in said.message


@pytest.fixture
def prepare(stored, fit, here, tmp_path):
    """The prepare pod of a run that cites the study by name, of the same text and base, on claims."""
    assert fit()[0] == 0
    for name, source in (("trainer", ROOT / "trainer/rewarm_trainer"), ("docs", ROOT / "docs")):
        (stored / "texts" / name).mkdir(parents=True, exist_ok=True)
        for path in [*source.glob("*.py"), *source.glob("*.md")]:
            shutil.copy(path, stored / "texts" / name)
    base = here / "studies" / "base"
    shutil.copytree(base / "checkpoints", stored / "runs/team/base", dirs_exist_ok=True)
    (stored / "cache").mkdir(exist_ok=True)

    def run(uid: str = "citing-1", study: str = "study") -> tuple[int, Termination | None, str]:
        document = yaml.safe_load(_citing(here).read_text())
        spec = document["spec"]
        spec["baseModel"] = {"run": {"name": "base"}}
        spec["corpus"]["sources"][0]["uri"] = "claim://texts/trainer/*.py"
        spec["replay"]["sources"][0]["uri"] = "claim://texts/docs/*.md"
        del spec["replay"]["ratio"]
        spec["replay"]["fromStudy"] = {"name": study, "tolerance": "1%"}
        spec |= {"checkpoints": {"uri": "claim://runs/team/citing/"}, "cache": {"uri": "claim://cache/shared/"}}
        validation = validate(document, local=False)
        assert validation.run is not None, validation.problems
        snapshot = resolve(validation.run, uid=uid, defaults=Defaults())
        assert snapshot.replay.asked == {"fromStudy": study, "tolerance": "1%", "extrapolate": False}
        home = Path(tempfile.mkdtemp(dir=tmp_path))
        (home / "snapshot.json").write_text(json.dumps({**snapshot.to_json(), "digest": snapshot.digest}))
        environment = {
            **os.environ, "REWARM_CONFIG": str(home), "REWARM_HOME": str(home), "REWARM_CLAIMS": str(stored),
            "REWARM_TERMINATION_LOG": str(home / "termination-log"), "HOME": str(home), "REWARM_RUN": "citing",
            "REWARM_NAMESPACE": "team", "REWARM_RUN_UID": uid,
        }  # fmt: skip
        command = [sys.executable, "-m", "rewarm_trainer.pod", "prepare"]
        ended = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
        return ended.returncode, Termination.parse((home / "termination-log").read_text()), ended.stderr

    os.environ["REWARM_CLAIMS"] = str(stored)
    StoredRun.of(WorkFolder(base), "claim://runs/team/base/").save()
    del os.environ["REWARM_CLAIMS"]
    return run


@pytest.mark.slow
def test_a_run_on_a_cluster_takes_its_ratio_from_the_study_beside_it(studied, stored, prepare, here, rewarm):
    _, artefact, _ = studied
    local = json.loads(rewarm("plan", _citing(here), "-o", "json").stdout)
    code, _, log = prepare()
    assert code == 0, log
    own = json.loads((stored / "runs/team/citing/run/snapshot.json").read_text())
    assert own["replay"]["ratio"] == local["cited"]["ratio"]
    assert own["replay"]["cited"]["study"] == artefact["name"]
    assert "asked" not in own["replay"]
    pinned = json.loads((stored / "cache/shared/runs/citing-1/cited.json").read_text())
    assert pinned == own["replay"]["cited"]
    # Whatever becomes of the study: it is not asked again, not even by a run made again under the old name.
    study = stored / "runs/team/study/study.json"
    kept = study.read_bytes()
    study.unlink()
    assert prepare()[0] == 0
    assert prepare("citing-2")[0] == 0
    study.write_bytes(kept)


@pytest.mark.slow
def test_a_run_whose_study_is_not_there_waits_for_it(prepare):
    code, said, _ = prepare("citing-3", "nobody")
    assert code == 66
    assert said is not None
    assert "claim://runs/team/nobody/study.json" in said.message
