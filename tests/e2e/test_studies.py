"""A study on a cluster: runs, law and answer by pods alone, and a run that takes its ratio from it."""

from __future__ import annotations

import json
from typing import Any

import mlflow
import pytest
from cluster_world import GROUP, NAMESPACE, ClusterWorld, condition, status_of

STUDIES = f"/apis/rewarm.dev/v1alpha1/namespaces/{NAMESPACE}/mixturestudies"
NAME = "mix"
STEPS = 40
RATIOS, HELD_OUT = [0.1, 0.4, 0.7], 0.25
Json = dict[str, Any]


def of_one_node(world: ClusterWorld, name: str) -> Json:
    return world.manifest(name, steps=STEPS, compute__nodes=1, checkpoints__every="50%", gates=None, tracking=None)


def manifest(world: ClusterWorld) -> Json:
    """Three ratios and one that the law does not see, two runs at a time."""
    template = of_one_node(world, NAME)["spec"]
    budget = template.pop("budget")["tokens"]
    del template["replay"]["ratio"]
    return {
        "apiVersion": "rewarm.dev/v1alpha1",
        "kind": "MixtureStudy",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "template": {"spec": template},
            "grid": {"replayRatios": RATIOS, "budgets": [budget]},
            "holdOut": {"replayRatios": [HELD_OUT]},
            "parallelism": 2,
        },
    }


def runs_of(world: ClusterWorld) -> list[Json]:
    selector = f"rewarm.dev%2Fstudy%3D{NAME}"
    return list(world.cluster.api.get(f"{GROUP}?labelSelector={selector}")["items"])


@pytest.fixture(scope="module")
def study(world: ClusterWorld) -> Json:
    """The study, once it has ended."""
    world.submit(manifest(world))

    def ended(found: Json | None) -> bool:
        assert found is not None
        return status_of(found, "Succeeded") != "Unknown"

    found = world.cluster.api.wait(f"{STUDIES}/{NAME}", ended, within_s=900)
    assert found is not None
    told = json.dumps(found["status"], indent=1)
    assert status_of(found, "Succeeded") == "True", told + "".join(
        world.story(run["metadata"]["name"]) for run in runs_of(world)
    )
    return found


def stored(world: ClusterWorld) -> Json:
    return dict(json.loads(world.s3.read("checkpoints", f"{NAMESPACE}/{NAME}/study.json")))


def test_every_place_of_the_grid_was_trained_by_a_run_of_its_own(world, study):
    assert {name: study["status"]["runs"][name] for name in ("total", "finished")} == {"total": 4, "finished": 4}
    runs = runs_of(world)
    assert sorted(run["spec"]["replay"]["ratio"] for run in runs) == sorted([*RATIOS, HELD_OUT])
    for run in runs:
        assert status_of(run, "Succeeded") == "True"
        assert run["status"]["replay"]["realized"] == pytest.approx(run["spec"]["replay"]["ratio"], abs=0.02)
        assert (run["status"].get("promotion") or {}).get("promoted") is not True


def test_the_artefact_holds_what_the_runs_measured(world, study):
    artefact = stored(world)
    assert study["status"]["artefact"] == {
        "uri": f"s3://checkpoints/{NAMESPACE}/{NAME}/study.json",
        "digest": artefact["digest"],
    }
    assert world.s3.read("checkpoints", f"{NAMESPACE}/{NAME}/study.png").startswith(b"\x89PNG")
    for run in runs_of(world):
        report = json.loads(world.s3.read("checkpoints", f"{NAMESPACE}/{run['metadata']['name']}/run/report.json"))
        (measured,) = [each for each in artefact["runs"] if each["replay_ratio"] == run["spec"]["replay"]["ratio"]]
        assert measured["losses"] == {name: value["final"]["loss"] for name, value in report["sets"].items()}
    assert {name: laws["cmr"][0]["hold_out"]["by"] for name, laws in artefact["laws"].items()} == {
        "code": "HeldOut",
        "general": "HeldOut",
    }


def test_the_status_says_the_answer_and_how_good_the_law_is(study):
    (answer,) = study["status"]["answers"]["largestShare"]
    assert study["status"]["replayRatio"] == answer["replayRatio"]
    assert {item["set"] for item in study["status"]["answers"]["sets"]} == {"code", "general"}
    assert condition(study, "Succeeded")["reason"] == "Answered"


def test_mlflow_has_the_law(world, study):
    client = mlflow.MlflowClient(tracking_uri=world.mlflow_url, registry_uri=world.mlflow_url)
    experiment = client.get_experiment_by_name(NAME)
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 5
    kept = [run for run in runs if {item.path for item in client.list_artifacts(run.info.run_id)} >= {"study.json"}]
    assert len(kept) == 1


def test_a_run_takes_its_ratio_from_the_study(world, study):
    document = of_one_node(world, "citing")
    del document["spec"]["replay"]["ratio"]
    document["spec"]["replay"]["fromStudy"] = {"name": NAME}
    name = world.submit(document)
    run = world.wait(name, lambda found: status_of(found, "Succeeded") == "True", within_s=420)
    answer = study["status"]["replayRatio"]
    assert run["status"]["replay"]["realized"] == pytest.approx(answer, abs=0.02)
    report = json.loads(world.s3.read("checkpoints", f"{NAMESPACE}/{name}/run/report.json"))
    assert report["replay"]["requested"] == answer
    assert report["replay"]["cited"]["digest"] == study["status"]["artefact"]["digest"]


def test_deleting_the_study_leaves_what_it_found(world, study):
    """The last test of this study."""
    artefact = stored(world)
    world.cluster.kubectl("delete", "mixturestudy", NAME, "-n", NAMESPACE, "--timeout=60s")
    for run in runs_of(world):
        world.cluster.api.wait(f"{GROUP}/{run['metadata']['name']}", lambda found: found is None)
    assert stored(world) == artefact
