"""A ratio from a study: the number, the citation, and what keeps a law from being cited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rewarm_api.errors import DataError, ManifestError, MissingInputError
from rewarm_api.frozen import digest_of
from rewarm_api.pins import Pins
from rewarm_api.resolve import resolve
from rewarm_api.snapshot import Snapshot
from rewarm_api.validate import validate
from rewarm_trainer.experiment import changes
from rewarm_trainer.laws.cmr import PowerLaw
from rewarm_trainer.study.citation import check_size, check_text, cite, study_folder

OLD, NEW = PowerLaw(0.5, 2.0, 2.0), PowerLaw(-0.4, 0.3, 3.0)
SIZE, TOKENS, BASE = 1000, 4096, 2.05
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
CORPORA = {"Corpus": [{"digest": "n", "share": 1.0}], "Replay": [{"digest": "o", "share": 1.0}]}


def artefact(models=("",), tokens=(TOKENS,)) -> dict[str, Any]:
    """study.json of a study whose old loss is OLD of the share, whatever else."""

    def points(law) -> list[dict[str, Any]]:
        return [
            {"run": f"{model}{share}-{count}", "parameters": SIZE * (number + 1), "tokens": count, "share": share,
             "loss": law(share), "final": True}
            for number, model in enumerate(models) for count in tokens for share in SHARES
        ]  # fmt: skip

    baseline = [{"parameters": SIZE * (number + 1), "loss": BASE} for number in range(len(models))]
    value = {
        "version": 1,
        "name": "mix",
        "outcome": "Succeeded",
        "tolerance": "3%",
        "tokenizer": "t",
        "recipe": "r",
        "corpora": CORPORA,
        "models": [{"name": model, "parameters": SIZE * (number + 1)} for number, model in enumerate(models)],
        "runs": [{"tokens": count} for count in tokens],
        "sets": {
            "old": {"role": "Retained", "baseline": baseline, "fitted": points(OLD), "held_out": []},
            "new": {"role": "New", "baseline": baseline, "fitted": points(NEW), "held_out": []},
        },
    }
    return {**value, "digest": digest_of(value)}


@pytest.fixture
def world(tmp_path):
    (tmp_path / "mix" / "state").mkdir(parents=True)
    (tmp_path / "mix" / "study.json").write_text(json.dumps(artefact()))
    return tmp_path


def run_of(ratio: Any, tokens: int = TOKENS, **spec: Any):
    document = {
        "apiVersion": "rewarm.dev/v1alpha1",
        "kind": "ContinualRun",
        "metadata": {"name": "run"},
        "spec": {
            "baseModel": {"file": {"path": "base"}},
            "corpus": {"sources": [{"name": "new", "uri": "n.jsonl"}]},
            "replay": {"ratio": ratio, "sources": [{"name": "old", "uri": "o.jsonl"}]},
            "schedule": {"peakLearningRate": 1e-3},
            "budget": {"tokens": tokens},
            "training": {"sequenceLength": 64, "globalBatchTokens": 1024},
            **spec,
        },
    }
    return document, validate(document, local=True)


def cited(root: Path, ratio: Any, tokens: int = TOKENS, stored: Snapshot | None = None):
    _, validation = run_of(ratio, tokens)
    assert validation.valid, validation.problems
    return cite(validation.run, root, stored)


def snapshot_of(root: Path, ratio: Any) -> Snapshot:
    _, validation = run_of(ratio)
    return resolve(validation.run, uid="u", cited=cite(validation.run, root))


def test_the_ratio_is_the_least_replay_within_the_tolerance(world):
    found = cited(world, {"fromStudy": "mix", "tolerance": "5%"})
    share = OLD.inverse(1.05 * BASE)
    assert found.share == pytest.approx(share, abs=1e-6)
    assert 1 - share <= found.ratio <= 1 - share + 1.01e-4
    assert (found.study, found.tolerance, found.law, found.tokens) == ("mix", "5%", "CMR", TOKENS)
    assert found.low <= found.share <= found.high


def test_without_a_tolerance_it_is_the_studys(world):
    assert cited(world, {"fromStudy": "./mix"}).tolerance == "3%"


def test_a_budget_is_counted_in_whole_steps_as_the_study_counted(world):
    assert cited(world, {"fromStudy": "mix"}, tokens=TOKENS - 1000).tokens == TOKENS


def test_the_snapshot_has_the_number_and_the_citation_and_comes_back_from_json(world):
    snapshot = snapshot_of(world, {"fromStudy": "mix"})
    assert snapshot.replay.ratio == snapshot.replay.cited.ratio
    again = Snapshot.model_validate_json(json.dumps(snapshot.to_json()))
    assert again.digest == snapshot.digest
    assert again.replay.cited.digest == artefact()["digest"]


def test_a_plain_ratio_leaves_no_trace_in_the_snapshot(world):
    assert "cited" not in snapshot_of(world, 0.25).to_json()["replay"]


def test_what_a_run_began_with_stands_whatever_becomes_of_the_study(world):
    ratio = {"fromStudy": "mix", "tolerance": "5%"}
    stored = snapshot_of(world, ratio)
    (world / "mix" / "study.json").unlink()
    assert cited(world, ratio, stored=stored) == stored.replay.cited
    with pytest.raises(ManifestError):
        cited(world, {"fromStudy": "mix", "tolerance": "4%"}, stored=stored)


def test_another_tolerance_is_named_as_the_change_of_an_experiment(world):
    before, _ = run_of({"fromStudy": "mix", "tolerance": "5%"})
    after, _ = run_of({"fromStudy": "mix", "tolerance": "4%"})
    old = snapshot_of(world, before["spec"]["replay"]["ratio"])
    new = snapshot_of(world, after["spec"]["replay"]["ratio"])
    assert [change.field for change in changes(old, new, before, after)] == ["spec.replay.ratio.tolerance"]


@pytest.mark.parametrize(
    ("ratio", "tokens", "words"),
    [
        ({"fromStudy": "mix"}, 10 * TOKENS, "did not measure|measured budget"),
        ({"fromStudy": "mix", "extrapolate": True}, 10 * TOKENS, "one budget tells nothing of others"),
        ({"fromStudy": "mix", "tolerance": "0%", "model": "large"}, TOKENS, "spec.replay.ratio.model"),
    ],
)
def test_refusals_of_a_finished_study(world, ratio, tokens, words):
    with pytest.raises(ManifestError, match=words) as refused:
        cited(world, ratio, tokens)
    assert refused.value.problems[0].field.startswith("spec.replay.ratio")


def test_a_tolerance_that_no_measured_ratio_keeps_is_refused(world):
    value = artefact()
    value["sets"]["old"]["baseline"][0]["loss"] = 1.0
    value.pop("digest")
    (world / "mix" / "study.json").write_text(json.dumps({**value, "digest": digest_of(value)}))
    with pytest.raises(ManifestError, match="no ratio keeps a tolerance of 3%"):
        cited(world, {"fromStudy": "mix"})


def test_a_study_of_several_models_needs_to_know_which(world):
    (world / "mix" / "study.json").write_text(json.dumps(artefact(models=("small", "large"))))
    with pytest.raises(ManifestError, match="small, large"):
        cited(world, {"fromStudy": "mix"})
    assert cited(world, {"fromStudy": "mix", "model": "large"}).parameters == 2 * SIZE


def test_a_study_that_is_not_finished_is_refused(world):
    (world / "mix" / "study.json").unlink()
    with pytest.raises(ManifestError, match="not finished") as refused:
        cited(world, {"fromStudy": "mix"})
    assert (refused.value.exit_code, refused.value.problems[0].field) == (64, "spec.replay.ratio.fromStudy")


def test_a_study_that_is_not_there_is_66(world):
    with pytest.raises(MissingInputError, match=r"spec\.replay\.ratio\.fromStudy"):
        cited(world, {"fromStudy": "other"})


def test_an_edited_study_is_65(world):
    text = (world / "mix" / "study.json").read_text()
    (world / "mix" / "study.json").write_text(text.replace('"3%"', '"30%"'))
    with pytest.raises(DataError, match="not as it was written"):
        cited(world, {"fromStudy": "mix"})


def test_names_lead_to_studies_and_paths_to_themselves(world, monkeypatch):
    monkeypatch.chdir(world)
    assert study_folder("mix", world) == world / "mix"
    assert study_folder("elsewhere", world) == Path("studies/elsewhere")
    assert study_folder("../x/y", world) == world / "../x/y"


def pins_of(**changes: Any) -> Pins:
    def pin(digest: str) -> dict[str, Any]:
        return {
            "digest": digest, "prepared": "p", "documents": 1, "duplicates": 0, "held_out_documents": 0, "bad_lines": 0,
            "tokens": 1, "rows": 1, "dropped_tokens": 0, "weight": 7.0, "repeats": 1.0,
        }  # fmt: skip

    _, validation = run_of(0.25)
    plan = resolve(validation.run, uid="u").plan
    value = {
        "base_model": {}, "tokenizer": "t", "eos": 0, "bos": None, "vocabulary": 9, "sets": {}, "plan": plan,
        "sources": {"new": pin("n"), "old": pin("o")}, **changes,
    }  # fmt: skip
    return Pins.model_validate(value)


def test_a_law_of_the_same_text_and_tokenizer_may_be_cited_with_a_warning_of_another_recipe(world):
    (warning,) = check_text(snapshot_of(world, {"fromStudy": "mix"}), pins_of())
    assert "schedule" in warning


def test_a_law_of_another_tokenizer_is_refused(world):
    with pytest.raises(ManifestError, match="tokenizer") as refused:
        check_text(snapshot_of(world, {"fromStudy": "mix"}), pins_of(tokenizer="other"))
    assert refused.value.exit_code == 64


def test_a_law_of_another_corpus_is_refused(world):
    pins = pins_of()
    other = pins.sources["new"].model_copy(update={"digest": "x"})
    with pytest.raises(ManifestError, match="corpora"):
        check_text(
            snapshot_of(world, {"fromStudy": "mix"}),
            pins.model_copy(update={"sources": {**pins.sources, "new": other}}),
        )


def test_a_law_of_another_size_is_refused(world):
    snapshot = snapshot_of(world, {"fromStudy": "mix"})
    check_size(snapshot, SIZE)
    with pytest.raises(ManifestError, match="parameters 999"):
        check_size(snapshot, 999)
    check_size(snapshot_of(world, 0.25), 999)


# What validation says of a citation, before any study is read.
@pytest.mark.parametrize(
    ("ratio", "spec", "field"),
    [
        ({"fromStudy": "mix", "tolerance": 3}, {}, "spec.replay.ratio.tolerance"),
        ({"tolerance": "3%"}, {}, "spec.replay.ratio.fromStudy"),
        ({"fromStudy": "mix", "colour": 3}, {}, "spec.replay.ratio.colour"),
        ({"fromStudy": "mix"}, {"budget": {"epochs": 1}}, "spec.budget.epochs"),
        ({"fromStudy": "mix"}, {"replay": {"ratio": {"fromStudy": "mix"}}}, "spec.replay"),
        ("3%", {}, "spec.replay.ratio"),
        (
            {"fromStudy": "mix"},
            {"phases": [{"name": "all", "share": "100%", "replayRatio": 0.1}]},
            "spec.phases[0].replayRatio",
        ),
    ],
)
def test_what_validation_refuses(ratio, spec, field):
    _, validation = run_of(ratio, **spec)
    assert [problem.field for problem in validation.problems] == [field]


def test_a_cluster_takes_a_name():
    document, _ = run_of({"fromStudy": "./mix"})
    problems = {problem.field: problem for problem in validate(document, local=False).problems}
    assert "a cluster cannot read" in problems["spec.replay.ratio.fromStudy"].expected
