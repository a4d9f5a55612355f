"""The fit pod on what finished runs left, made of numbers; and the ratio that a later run takes from it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from rewarm_api.defaults import Defaults
from rewarm_api.errors import ManifestError, MissingInputError
from rewarm_api.reported import Termination
from rewarm_api.resolve import resolve
from rewarm_api.study_rules import validate_study
from rewarm_api.study_runs import child_runs
from rewarm_api.validate import validate
from rewarm_trainer.pod import main
from rewarm_trainer.pod_citation import PINNED, with_citation
from rewarm_trainer.pod_settings import Pod
from rewarm_trainer.pod_study import fit
from rewarm_trainer.report import build_report
from rewarm_trainer.storage import open_storage
from rewarm_trainer.stored import StoredRun
from rewarm_trainer.workdir import WorkFolder, write_snapshot

TOKENS = 8192 * 480
SPEC: dict[str, Any] = {
    "baseModel": {"s3": {"uri": "s3://models/base/"}},
    "corpus": {"sources": [{"name": "stdlib-code", "uri": "s3://c/code.jsonl", "license": "MIT"}]},
    "replay": {"sources": [{"name": "stdlib-docs", "uri": "s3://c/docs.jsonl", "license": "MIT"}]},
    "schedule": {"kind": "Constant", "peakLearningRate": 1e-3},
    "training": {"sequenceLength": 256, "globalBatchTokens": 8192},
}
STUDY: dict[str, Any] = {
    "apiVersion": "rewarm.dev/v1alpha1",
    "kind": "MixtureStudy",
    "metadata": {"name": "mix", "namespace": "team"},
    "spec": {
        "template": {"spec": SPEC},
        "grid": {"replayRatios": [0, 0.125, 0.25, 0.5, 0.75], "budgets": [TOKENS]},
        "tolerance": "1%",
    },
}
DEFAULTS = {
    "checkpoints_uri": "claim://runs/", "cache_uri": "claim://cache/", "tracking_uri": "", "namespace": "team",
}  # fmt: skip


@pytest.fixture
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: Any) -> Path:
    """What five finished runs left: old text suffers with the share of new text, new text gains by it."""
    root = tmp_path / "claims"
    for name in ("runs", "cache"):
        (root / name).mkdir(parents=True)
    monkeypatch.setenv("REWARM_CLAIMS", str(root))
    study = validate_study(STUDY, local=False).study
    assert study is not None
    for child in child_runs(study):
        work = WorkFolder(tmp_path / "made" / child.label)
        run = validate(child.document, local=False).run
        assert run is not None
        snapshot = resolve(run, uid=f"uid-{child.label}", defaults=Defaults(**DEFAULTS))
        write_snapshot(work, snapshot)
        work.pins.write_text(json.dumps(example.pins.to_json()))
        report = build_report(example.facts)
        report["model"] = {"parameters": 1_000_000}
        report["tokens"]["trained"] = TOKENS
        share = 1 - child.ratio
        for value in report["sets"].values():
            change = -0.8 * share**0.5 if value["role"] == "New" else 0.1 * share**2 + 0.001
            value["final"]["loss"] = value["baseline"]["loss"] + change
        work.report.write_text(json.dumps(report))
        StoredRun.of(work, f"claim://runs/team/{child.name}/").save()
    return root


def pod_of(tmp_path: Path, name: str, study: dict[str, Any] = STUDY) -> Pod:
    home = tmp_path / name
    home.mkdir()
    asked = {"study": study, "uid": "uid-of-the-study", "defaults": DEFAULTS}
    (home / "study.json").write_text(json.dumps(asked))
    environment = {"REWARM_CONFIG": str(home), "REWARM_HOME": str(home), "REWARM_NAMESPACE": "team"}
    return Pod.from_environment(environment)


def test_it_stores_the_artefact_beside_the_runs_and_says_what_it_found(claims, tmp_path):
    said = fit(pod_of(tmp_path, "first"))
    kept = json.loads((claims / "runs/team/mix/study.json").read_text())
    assert (claims / "runs/team/mix/study.png").read_bytes().startswith(b"\x89PNG")
    assert (said.artefact.uri, said.artefact.digest) == ("claim://runs/team/mix/study.json", kept["digest"])
    (answer,), (whole,) = said.answers.largest_share, kept["answers"]["largest_share"]
    assert answer.replay_ratio == whole["replay_ratio"]
    assert 0 < answer.replay_ratio < 0.75
    assert answer.low == pytest.approx(1 - whole["high"], abs=1e-6)
    assert answer.high == pytest.approx(1 - whole["low"], abs=1e-6)
    assert answer.low - 1e-6 <= 1 - whole["share"] <= answer.high + 1e-6
    assert {item.set for item in said.answers.sets} == set(kept["sets"])
    assert kept["uid"] == "uid-of-the-study"
    message = Termination(study=said, outcome="Succeeded").to_message()
    assert Termination.parse(message).study == said


def test_started_again_it_says_the_same_and_fits_nothing(claims, tmp_path, capsys):
    first = fit(pod_of(tmp_path, "first"))
    capsys.readouterr()
    assert fit(pod_of(tmp_path, "second")) == first
    assert "fitting" not in capsys.readouterr().err
    other = copy.deepcopy(STUDY)
    other["spec"]["tolerance"] = "2%"
    assert fit(pod_of(tmp_path, "third", other)).answers.largest_share[0].tolerance == "2%"
    assert "fitting" in capsys.readouterr().err


def test_a_run_that_left_nothing_and_one_that_is_not_finished(claims, tmp_path):
    folder = claims / "runs/team/mix-r0-5-t3932160/run"
    kept = (folder / "report.json").read_bytes()
    (folder / "report.json").unlink()
    with pytest.raises(MissingInputError, match=r"run/report.json: run mix-r0-5-t3932160 of the study has left none"):
        fit(pod_of(tmp_path, "none"))
    work = WorkFolder(tmp_path / "failed")
    (tmp_path / "failed").mkdir()
    work.report.write_text(json.dumps({**json.loads(kept), "outcome": "Diverged"}))
    StoredRun.of(work, "claim://runs/team/mix-r0-5-t3932160/").save()
    with pytest.raises(MissingInputError, match="no verdict"):
        fit(pod_of(tmp_path, "failed-pod"))


def test_a_manifest_that_this_version_does_not_take(claims, tmp_path):
    pod = pod_of(tmp_path, "bad", {**STUDY, "spec": {**STUDY["spec"], "tolerance": 3}})
    with pytest.raises(ManifestError, match=r"spec\.tolerance"):
        fit(pod)
    (pod.config / "study.json").write_text("{}")
    with pytest.raises(ManifestError, match="one version for operator and trainer"):
        fit(pod)
    (pod.config / "study.json").unlink()
    with pytest.raises(MissingInputError, match="as an annotation"):
        fit(pod)


def test_the_pod_ends_with_a_code_and_last_words(claims, tmp_path, monkeypatch):
    pod = pod_of(tmp_path, "ended")
    log = tmp_path / "termination-log"
    for name, value in (("CONFIG", pod.config), ("HOME", pod.home), ("TERMINATION_LOG", log)):
        monkeypatch.setenv(f"REWARM_{name}", str(value))
    assert main(["study"]) == 0
    said = Termination.parse(log.read_text())
    assert said is not None
    assert (said.outcome, said.study.artefact.uri) == ("Succeeded", "claim://runs/team/mix/study.json")
    assert len(log.read_bytes()) < 4096


# -- the ratio of a later run ----------------------------------------------------------------------------------------


def citing(name: str = "later", **asked: Any) -> Any:
    replay = {**SPEC["replay"], "fromStudy": {"name": "mix", **asked}}
    document = {
        "apiVersion": "rewarm.dev/v1alpha1",
        "kind": "ContinualRun",
        "metadata": {"name": name},
        "spec": {**SPEC, "replay": replay, "budget": {"tokens": TOKENS}},
    }
    run = validate(document, local=False).run
    assert run is not None
    return resolve(run, uid=f"uid-{name}", defaults=Defaults(**DEFAULTS))


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    (tmp_path / "work").mkdir()
    return WorkFolder(tmp_path / "work")


def test_a_run_takes_the_answer_of_the_study_beside_it_once(claims, tmp_path, work):
    said = fit(pod_of(tmp_path, "fit"))
    pod, pinned = pod_of(tmp_path, "prepare"), open_storage("claim://cache/runs/uid-later", root=tmp_path)
    snapshot = citing()
    found = with_citation(pod, work, snapshot, pinned)
    assert found.replay.ratio == said.answers.largest_share[0].replay_ratio
    assert found.replay.asked is None
    assert found.replay.cited.digest == said.artefact.digest
    assert json.loads(pinned.get(PINNED)) == found.replay.cited.to_json()
    (claims / "runs/team/mix/study.json").unlink()
    assert with_citation(pod, work, snapshot, pinned) == found, "what was pinned stands"
    write_snapshot(work, found)
    pinned.delete(PINNED)
    assert with_citation(pod, work, snapshot, pinned) == found, "what the run's own folder says stands"


def test_another_tolerance_is_another_question(claims, tmp_path, work):
    fit(pod_of(tmp_path, "fit"))
    pod, pinned = pod_of(tmp_path, "prepare"), open_storage("claim://cache/runs/uid-later", root=tmp_path)
    write_snapshot(work, with_citation(pod, work, citing(), pinned))
    other = open_storage("claim://cache/runs/uid-other", root=tmp_path)
    found = with_citation(pod, work, citing(tolerance="2%"), other)
    assert found.replay.ratio < with_citation(pod, work, citing(), pinned).replay.ratio


def test_a_study_that_is_not_there_is_named_and_one_that_did_not_measure_refuses(claims, tmp_path, work):
    pod, pinned = pod_of(tmp_path, "prepare"), open_storage("claim://cache/runs/uid-later", root=tmp_path)
    with pytest.raises(MissingInputError, match=r"found no claim://runs/team/mix/study\.json"):
        with_citation(pod, work, citing(), pinned)
    fit(pod_of(tmp_path, "fit"))
    longer = citing()
    plan = longer.plan.model_copy(update={"tokens": 10 * TOKENS})
    with pytest.raises(ManifestError, match="did not measure"):
        with_citation(pod, work, longer.model_copy(update={"plan": plan}), pinned)


def test_a_run_with_a_number_asks_nobody(tmp_path, work, example):
    nowhere: Any = None
    assert with_citation(pod_of(tmp_path, "p"), work, example.snapshot, nowhere) is example.snapshot
