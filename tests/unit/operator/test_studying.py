"""A study on a cluster: which runs are made and when, what a failure stops, and what the fit's last words become."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from study_world import NAMESPACE, RESULT, SETTINGS, StudyWorld

from rewarm_api.validate import validate
from rewarm_operator.actions import Create, PatchStatus
from rewarm_operator.cluster import ApiError
from rewarm_operator.queue import Again
from rewarm_operator.resources import CONFIG_MAP, RUN, STUDY
from rewarm_operator.settings import Settings

FIRST = "pubmed-mix-r0-02-t500000000"


@pytest.fixture
def world() -> StudyWorld:
    """Eight runs, three at a time."""
    return StudyWorld()


@pytest.fixture
def fitted(world: StudyWorld) -> StudyWorld:
    """All runs are finished, the fit Job is there."""
    world.settle()
    world.tell(FIRST, "DataReady", "True")
    world.finish_runs()
    return world


def test_the_first_run_prepares_and_then_as_many_as_asked_are_open(world):
    world.settle()
    assert world.names("ContinualRun") == [FIRST]
    world.tell(FIRST, "DataReady", "True")
    assert world.told[-1] == (NAMESPACE, "pubmed-mix")
    world.settle()
    assert len(world.open_runs()) == 3
    assert world.status["runs"] == {"total": 8, "finished": 0, "running": 3, "failed": 0}
    assert world.told_of("Running") == ("True", "Training")
    assert [event.reason for event in world.events] == ["Started"]


def test_a_run_is_a_valid_manifest_with_one_owner_and_no_label_of_the_studys(world):
    study = world.there("MixtureStudy", "pubmed-mix")
    study["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpu"}
    world.put(STUDY, study)
    world.settle()
    run = world.there("ContinualRun", FIRST)
    metadata = run["metadata"]
    assert metadata["labels"] == {"rewarm.dev/study": "pubmed-mix"}
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "rewarm.dev/v1alpha1", "kind": "MixtureStudy", "name": "pubmed-mix",
            "uid": study["metadata"]["uid"], "controller": True,
        }
    ]  # fmt: skip
    assert validate(run, local=False).problems == ()
    assert run["spec"]["replay"]["ratio"] == 0.02
    assert run["spec"]["checkpoints"] == {"keep": 1}
    assert run["spec"]["tracking"]["experiment"] == "pubmed-mix"


def test_each_model_has_a_first_run_of_its_own():
    models = "[{name: a, baseModel: {s3: {uri: s3://m/a/}}}, {name: b, baseModel: {s3: {uri: s3://m/b/}}}]"
    world = StudyWorld(spec__template__spec__baseModel="null", spec__grid__models=models)
    world.settle()
    assert world.names("ContinualRun") == ["pubmed-mix-a-r0-02-t500000000", "pubmed-mix-b-r0-02-t500000000"]


def test_parallelism_may_change_at_any_time(world):
    world.settle()
    world.tell(FIRST, "DataReady", "True")
    world.settle()
    world.edit("spec.parallelism", "5")
    world.settle()
    assert len(world.open_runs()) == 5
    world.edit("spec.parallelism", "1")
    world.settle()
    assert len(world.open_runs()) == 5, "runs that train are left to finish"
    for name in world.open_runs()[:4]:
        world.end(name)
        world.settle()
    assert len(world.open_runs()) == 1


def test_the_grid_may_grow(world):
    world.settle()
    world.tell(FIRST, "DataReady", "True")
    world.edit("spec.grid.replayRatios", "[0.02, 0.05, 0.125, 0.25, 0.5, 0.75, 0.9]")
    world.settle()
    assert world.status["runs"]["total"] == 9
    assert world.told_of("SpecValid") == ("True", "Valid")


@pytest.mark.parametrize(
    ("path", "value", "may"),
    [
        ("spec.template.spec.schedule.peakLearningRate", "2e-4", False),
        ("spec.template.spec.training.seed", "9", False),
        ("spec.template.spec.compute.gpusPerNode", "4", True),
        ("spec.tolerance", "5%", True),
    ],
)
def test_an_experiment_that_was_begun_is_not_mixed_with_another(world, path, value, may):
    world.settle()
    world.tell(FIRST, "DataReady", "True")
    world.edit(path, value)
    world.settle()
    assert len(world.open_runs()) == (3 if may else 1)
    assert world.told_of("SpecValid") == (("True", "Valid") if may else ("False", "ExperimentChanged"))
    if not may:
        assert FIRST in world.message("SpecValid")


def test_an_invalid_spec_is_told_at_its_field_and_can_be_mended(world):
    world.edit("spec.template.spec.training.globalBatchTokens", "1000")
    world.settle()
    assert world.names("ContinualRun") == []
    assert world.told_of("SpecValid") == ("False", "InvalidSpec")
    assert "spec.template.spec.training.globalBatchTokens" in world.message("SpecValid")
    assert [event.reason for event in world.events] == ["SpecInvalid"]
    world.edit("spec.template.spec.training.globalBatchTokens", "524288")
    world.settle()
    assert world.told_of("SpecValid") == ("True", "Valid")
    assert world.names("ContinualRun") == [FIRST]


def test_without_a_place_for_checkpoints_nothing_is_made():
    world = StudyWorld(Settings(trainer_image="x", status_interval_seconds=0))
    world.settle()
    assert world.names("ContinualRun") == []
    assert "spec.template.spec.checkpoints.uri: found nothing" in world.message("SpecValid")


def test_a_name_that_somebody_else_has_is_told_and_the_others_are_made(world):
    taken = "pubmed-mix-r0-05-t500000000"
    world.put(RUN, {"metadata": {"name": taken}, "spec": {}})
    world.settle()
    world.tell(FIRST, "DataReady", "True")
    for _ in range(4):
        with pytest.raises(Again, match="not of this MixtureStudy"):
            world.visit()
    assert world.told_of("Stalled") == ("True", "NameCollision")
    assert len(world.open_runs()) == 1 + 1 + 1, "the taken name, the first run and one that could be made"
    assert world.status["runs"]["running"] == 2
    del world.cluster.objects["ContinualRun", NAMESPACE, taken]
    world.settle()
    assert world.told_of("Stalled") == ("False", "Progressing")
    assert len(world.open_runs()) == 3


def test_one_that_is_there_and_ours_is_as_good_as_made(world):
    world.settle()
    world.restart(unseen=FIRST)
    world.settle()
    assert world.names("ContinualRun") == [FIRST]
    assert world.told_of("Stalled") == ("False", "Progressing")


def test_a_refused_create_is_told(world):
    world.cluster.failures = [None, ApiError(403, "Forbidden", "exceeded quota: runs")]
    with pytest.raises(Again, match="exceeded quota"):
        world.visit()
    world.visit()
    assert world.told_of("Stalled") == ("True", "CreateRefused")
    world.settle()
    assert world.names("ContinualRun") == [FIRST]
    assert world.told_of("Stalled") == ("False", "Progressing")


def test_a_run_that_failed_ends_the_study_and_the_others_are_left_to_finish(world):
    world.settle()
    world.tell(FIRST, "DataReady", "True")
    world.settle()
    others = [name for name in world.open_runs() if name != FIRST]
    world.end(FIRST, "False", "Diverged", "the loss is not finite")
    world.settle()
    assert world.told_of("Succeeded") == ("False", "RunFailed")
    assert world.message("Succeeded") == f"run {FIRST}: Diverged: the loss is not finite"
    assert world.open_runs() == others, "none is stopped, none is made"
    assert world.status["runs"] == {"total": 8, "finished": 0, "running": 2, "failed": 1}
    for name in others:
        world.end(name)
    world.settle()
    assert world.status["runs"] == {"total": 8, "finished": 2, "running": 0, "failed": 1}
    assert [event.reason for event in world.events] == ["Started", "Failed"]
    assert world.names("Job") == []


def test_a_run_that_needs_help_is_named(world):
    world.settle()
    world.tell(FIRST, "Stalled", "True", "MissingSecret", "secret s3-credentials not found")
    world.settle()
    assert world.told_of("Stalled") == ("True", "RunStalled")
    assert world.message("Stalled").startswith(f"run {FIRST}: MissingSecret")
    assert [event.reason for event in world.events] == ["Started", "RunStalled"]


def test_steps_of_a_run_are_not_looked_at(world):
    world.settle()
    world.told.clear()
    run = world.there("ContinualRun", FIRST)
    run["status"] = {"progress": {"step": 7}}
    world.put(RUN, run)
    assert world.told == []


def test_a_deleted_run_is_made_again_and_found_finished_by_its_pods(world):
    world.settle()
    world.store.remove("ContinualRun", world.cluster.objects.pop(("ContinualRun", NAMESPACE, FIRST)))
    world.settle()
    assert world.names("ContinualRun") == [FIRST]


def test_when_all_are_finished_one_job_on_the_cpu_fits(fitted):
    assert fitted.names("Job") == ["pubmed-mix-fit"]
    assert fitted.told_of("RunsFinished") == ("True", "Finished")
    assert fitted.status["summary"] == "Fitting"
    job = fitted.there("Job", "pubmed-mix-fit")
    pod = job["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["python", "-m", "rewarm_trainer.pod", "study"]
    assert container["resources"] == {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}
    assert container["envFrom"] == [{"secretRef": {"name": "s3-credentials"}}]
    assert not any("serviceAccountToken" in str(volume) for volume in pod["spec"]["volumes"])
    assert pod["metadata"]["labels"]["rewarm.dev/role"] == "fit"
    asked = json.loads(pod["metadata"]["annotations"]["rewarm.dev/study-manifest"])
    assert asked["defaults"]["checkpoints_uri"] == "s3://runs/"
    assert asked["study"]["spec"]["tolerance"] == "2%"
    assert asked["uid"] == job["metadata"]["ownerReferences"][0]["uid"]


def test_a_claim_of_the_checkpoints_is_mounted():
    world = StudyWorld(spec__template__spec__checkpoints="{uri: 'claim://runs/studies/'}")
    world.settle()
    world.tell(FIRST, "DataReady", "True")
    world.finish_runs()
    pod = world.there("Job", "pubmed-mix-fit")["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert not mounts["/mnt/claims/runs"].get("readOnly")
    assert world.there("ContinualRun", FIRST)["spec"]["checkpoints"]["uri"] == f"claim://runs/studies/{FIRST}/"


def test_the_last_words_of_the_fit_become_the_status(fitted):
    fitted.end_fit(0, RESULT)
    fitted.settle()
    assert fitted.told_of("Succeeded") == ("True", "Answered")
    assert fitted.message("Succeeded") == "0.1875 replay keeps 2% (500000000 tokens)"
    status = fitted.status
    assert status["replayRatio"] == 0.1875
    assert status["answers"] == RESULT["answers"]
    assert status["artefact"] == RESULT["artefact"]
    assert [event.reason for event in fitted.events] == ["Started", "RunsFinished", "Succeeded"]
    fitted.restart()
    assert fitted.decide().actions == ()


def test_a_study_without_an_answer_has_succeeded_all_the_same(fitted):
    why = "no measured ratio keeps the tolerance on every Retained set"
    answers = {"largestShare": [{"tokens": 5, "tolerance": "2%", "why": why}]}
    fitted.end_fit(0, {**RESULT, "answers": answers})
    fitted.settle()
    assert fitted.told_of("Succeeded") == ("True", "NoRatio")
    assert fitted.message("Succeeded") == why
    assert "replayRatio" not in fitted.status


@pytest.mark.parametrize("code", [64, 65])
def test_what_no_retry_mends_ends_it(fitted, code):
    fitted.end_fit(code, message="run x saw other text than run y")
    fitted.settle()
    assert fitted.told_of("Succeeded")[0] == "False"
    assert "saw other text" in fitted.message("Succeeded")
    assert fitted.events[-1].reason == "Failed"


def test_a_missing_thing_is_waited_for_and_named(fitted):
    for _ in range(6):
        fitted.end_fit(66, message="s3://runs/research/x/run: no report")
        fitted.settle()
        assert fitted.told_of("Stalled") == ("True", "MissingInput")
        uid = fitted.there("Job", "pubmed-mix-fit")["metadata"]["uid"]
        fitted.wait(301)
        fitted.settle()
        assert fitted.there("Job", "pubmed-mix-fit")["metadata"]["uid"] != uid
        assert fitted.told_of("Stalled") == ("True", "MissingInput"), "it stays in sight"
    assert [event.reason for event in fitted.events].count("MissingInput") == 1
    fitted.end_fit(0, RESULT)
    fitted.settle()
    assert fitted.told_of("Stalled") == ("False", "Finished")


def test_failures_of_the_fit_are_counted(fitted):
    fitted.edit("spec.template.spec.retries", "{maxFailures: 2}")
    fitted.settle()
    for _ in range(3):
        assert fitted.status["summary"] == "Fitting"
        fitted.end_fit(70, message="a mistake of ours")
        fitted.settle()
        fitted.wait(301)
        fitted.settle()
    assert fitted.told_of("Succeeded") == ("False", "Unknown")


def test_last_words_that_nobody_read_are_asked_for_again(fitted):
    fitted.end_fit(0)
    fitted.wait(11)
    fitted.settle()
    assert fitted.told_of("Succeeded")[0] == "Unknown"
    assert fitted.status["summary"] == "Fitting"
    assert fitted.names("Job") == ["pubmed-mix-fit"]
    fitted.end_fit(0, RESULT)
    fitted.settle()
    assert fitted.told_of("Succeeded") == ("True", "Answered")


@pytest.mark.parametrize(
    ("path", "value"),
    [("spec.tolerance", "5%"), ("spec.grid.replayRatios", "[0.02, 0.05, 0.125, 0.25, 0.5, 0.75, 0.9]")],
)
def test_an_edit_while_it_fits_is_fitted_anew(fitted, path, value):
    first = fitted.there("Job", "pubmed-mix-fit")["metadata"]["uid"]
    fitted.end_fit(0, RESULT)
    fitted.edit(path, value)
    fitted.finish_runs()
    assert fitted.told_of("Succeeded")[0] == "Unknown"
    job = fitted.there("Job", "pubmed-mix-fit")
    assert job["metadata"]["uid"] != first
    assert fitted.status["runs"]["finished"] == fitted.status["runs"]["total"]
    fitted.end_fit(0, RESULT)
    fitted.settle()
    assert fitted.told_of("Succeeded") == ("True", "Answered")


@pytest.mark.parametrize("moment", ["begun", "half", "fitting"])
def test_a_restart_with_nothing_changed_writes_nothing(world, moment):
    world.settle()
    if moment != "begun":
        world.tell(FIRST, "DataReady", "True")
        world.settle()
    if moment == "fitting":
        world.finish_runs()
    world.restart()
    assert world.decide().actions == ()


@pytest.mark.parametrize("died_after", range(4))
def test_killed_between_any_two_writes_it_goes_on(world, died_after):
    """What a dead process left half-done is no other state than any."""
    world.settle()
    world.tell(FIRST, "DataReady", "True")
    failing = [None] * died_after + [ApiError(503, "ServiceUnavailable", "it died here")]
    world.cluster.failures = failing
    with contextlib.suppress(Again):
        world.visit()
    world.cluster.failures = []
    world.restart()
    world.settle()
    assert len(world.open_runs()) == 3
    created = [name for verb, kind, name in world.cluster.log if (verb, kind) == ("create", "ContinualRun")]
    assert len(set(created)) == 3


def test_a_deleted_study_is_left_to_the_garbage_collector(world):
    world.settle()
    study = world.there("MixtureStudy", "pubmed-mix")
    study["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    world.put(STUDY, study)
    assert world.decide().actions == ()


def test_a_study_made_again_waits_for_what_is_collected(world):
    old = {"kind": "MixtureStudy", "name": "pubmed-mix", "uid": "the-study-before"}
    world.put(RUN, {"metadata": {"name": FIRST, "ownerReferences": [old]}, "spec": {}})
    with pytest.raises(Again, match="still to be collected"):
        world.visit()
    del world.cluster.objects["ContinualRun", NAMESPACE, FIRST]
    world.settle()
    assert world.told_of("Stalled") == ("False", "Progressing")


def test_numbers_alone_wait_for_their_time():
    world = StudyWorld(replace(SETTINGS, status_interval_seconds=3600))
    world.now = world.now.replace(year=2000)
    world.settle()
    world.tell(FIRST, "DataReady", "True")
    patches = [action for action in world.decide().actions if isinstance(action, PatchStatus)]
    creates = [action for action in world.decide().actions if isinstance(action, Create)]
    assert (patches, len(creates)) == ([], 2)


def test_a_thing_of_another_kind_is_no_run_of_it(world):
    world.put(CONFIG_MAP, {"metadata": {"name": "x", "ownerReferences": [{"kind": "MixtureStudy", "uid": "y"}]}})
    assert world.store.observe_study((NAMESPACE, "pubmed-mix"), world.now).runs == ()
