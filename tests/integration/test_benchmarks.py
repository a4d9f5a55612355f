"""Benchmarks through the real command: a task with local data, base and candidate, resume, ranks, compare."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from rewarm_world import World, read_until

pytest.importorskip("lm_eval")

EXAMPLES = Path(__file__).parents[2] / "examples"
PYTHON = {
    "name": "python",
    "tasks": ["tasks/python_words.yaml"],
    "fewShot": 1,
    "formSelection": "25%",
    "forms": [{"name": "plain"}, {"name": "quiz", "docToText": "Question: {{question}}?\nAnswer:"}],
}
SHORT = {"budget": {"tokens": 2560}, "evaluation__benchmarks": [PYTHON], "gates": {"maxNegativeFlips": 0.9}}


@pytest.fixture(scope="session")
def asked(world: World) -> dict[str, Any]:
    """A finished run that was asked the example's task; its report."""
    shutil.copytree(EXAMPLES / "tasks", world.root / "tasks")
    done = world.run(world.manifest("asked", **SHORT), "asked")
    assert done.code == 0, done.err
    return world.report("asked")


def answers(world: World, workdir: str, part: str) -> dict[str, Any]:
    (task,) = json.loads((world.root / workdir / "state" / "benchmarks" / part / "python.json").read_text())["tasks"]
    return task


def test_base_and_candidate_are_judged_item_by_item(world: World, asked: dict[str, Any]) -> None:
    line = asked["benchmarks"]["python"]["tasks"]["python_words"]
    base, final = (answers(world, "asked", part) for part in ("base", "final"))
    assert line["items"] == len(base["items"]) == len(final["items"]) == 48
    assert line["form_items"] == base["chosen_on"] == 16
    assert set(base["form_accuracies"]) == {"plain", "quiz"}
    assert [item["digest"] for item in base["items"]] == [item["digest"] for item in final["items"]]
    right = [[item["right"] for item in part["items"]] for part in (base, final)]
    assert line["baseline"]["accuracy"] == sum(right[0]) / 48
    lost = sum(old and not new for old, new in zip(*right, strict=True))
    won = sum(new and not old for old, new in zip(*right, strict=True))
    assert line["flips"]["negative"]["mean"] == pytest.approx(lost / 48)
    assert line["delta"]["mean"] == pytest.approx((won - lost) / 48)
    assert line["verdict"] in ("Win", "Tie", "Lose")
    for item in base["items"]:
        assert len(item["log_probabilities"]) == 4
        assert max(item["log_probabilities"]) <= 0
        likeliest = max(range(4), key=item["log_probabilities"].__getitem__)
        assert item["answer"] == str(likeliest)
        assert item["right"] == (likeliest in item["right_choices"])
    assert base["items"][0]["log_probabilities"] != final["items"][0]["log_probabilities"]


def test_the_gate_reads_the_items(asked: dict[str, Any]) -> None:
    (gate,) = asked["gates"]
    share = asked["benchmarks"]["python"]["negative_flips"]
    assert (gate["name"], gate["limit"], gate["value"]) == ("maxNegativeFlips", 0.9, share["mean"])
    assert gate["result"] == ("Pass" if share["high"] < 0.9 else "Inconclusive")
    assert asked["promotion"]["promoted"] == (gate["result"] == "Pass")


def test_everyone_is_told(world: World, asked: dict[str, Any]) -> None:
    folder = world.root / "asked"
    assert "<h2>Benchmarks</h2>" in (folder / "report.html").read_text()
    shown = world.rewarm("report", folder)
    assert "python_words" in shown.out
    first, *_, last = [line for line in world.log("asked") if line.get("event") == "evaluation"]
    assert first["benchmarks"]["python"]["tasks"]["python_words"]["items"] == 48
    assert last["benchmarks"] == asked["benchmarks"]
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    history = client.get_metric_history(asked["tracking"]["run_id"], "benchmark/python/python_words/accuracy")
    line = asked["benchmarks"]["python"]["tasks"]["python_words"]
    assert [point.step for point in history] == [0, 2560]
    assert [point.value for point in history] == [line["baseline"]["accuracy"], line["final"]["accuracy"]]
    for value in asked["sets"].values():
        assert value["flips"]["labels"] == value["tokens"]


def test_a_run_compared_with_itself_flips_nothing(world: World, asked: dict[str, Any]) -> None:
    compared = world.rewarm("compare", world.root / "asked", world.root / "asked", "-o", "json")
    assert compared.code == 0, compared.err
    line = compared.json["benchmarks"]["python"]["tasks"]["python_words"]
    assert (line["items"], line["verdict"], line["flips"]["mcnemar_p"]) == (48, "Tie", 1.0)
    assert line["first"]["accuracy"] == line["second"]["accuracy"]
    assert compared.json["sets"]["code"]["flips"]["negative"]["mean"] == 0
    assert "python_words" in world.rewarm("compare", world.root / "asked", world.root / "asked").out


def test_a_model_folder_is_asked_what_the_run_was_asked(world: World, asked: dict[str, Any]) -> None:
    exported = world.rewarm("export", world.root / "asked", world.root / "model")
    assert exported.code == 0, exported.err
    compared = world.rewarm("compare", world.root / "asked", world.root / "model", "-o", "json")
    assert compared.code == 0, compared.err
    line = compared.json["benchmarks"]["python"]["tasks"]["python_words"]
    assert line["first"]["accuracy"] == line["second"]["accuracy"]
    assert line["flips"]["negative"]["mean"] == line["flips"]["positive"]["mean"] == 0


@pytest.mark.slow
def test_a_killed_run_does_not_ask_the_base_again(world: World, asked: dict[str, Any]) -> None:
    manifest = world.manifest("asked-killed", **SHORT)
    folder, cache = world.root / "asked-killed", world.root / "cache" / "rewarm" / "benchmarks"
    process = world.start("run", manifest, "--workdir", folder)
    read_until(process, lambda line: "checkpoint committed after step 2" in line)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shutil.rmtree(cache)
    base = (folder / "state" / "benchmarks" / "base" / "python.json").stat().st_mtime_ns
    done = world.run(manifest, "asked-killed")
    assert done.code == 0, done.err
    assert not cache.exists(), "asking the base leaves its answers there"
    assert (folder / "state" / "benchmarks" / "base" / "python.json").stat().st_mtime_ns == base
    assert world.report("asked-killed")["benchmarks"] == asked["benchmarks"]


@pytest.mark.slow
def test_two_processes_get_the_numbers_of_one(world: World, asked: dict[str, Any]) -> None:
    shutil.rmtree(world.root / "cache" / "rewarm" / "benchmarks", ignore_errors=True)
    done = world.run(world.manifest("asked-two", **SHORT), "asked-two", "--processes", "2")
    assert done.code == 0, done.err
    assert answers(world, "asked-two", "base") == answers(world, "asked", "base")
    assert world.report("asked-two")["benchmarks"]["python"]["tasks"]["python_words"]["items"] == 48


def test_data_that_went_away_ends_the_run_before_training(world: World, asked: dict[str, Any]) -> None:
    gone = {**PYTHON, "tasks": ["tasks/nowhere.yaml"]}
    done = world.run(world.manifest("asked-gone", **{**SHORT, "evaluation__benchmarks": [gone]}), "asked-gone")
    assert done.code == 66
    assert "spec.evaluation.benchmarks[0].tasks[0]: no task file" in done.err
    assert world.report("asked-gone")["outcome"] == "MissingInput"
    assert not (world.root / "asked-gone" / "pins.json").exists()


@pytest.mark.slow
def test_the_version_that_serves_is_compared_too(world: World, asked: dict[str, Any]) -> None:
    """The first run takes the alias; the next of that model is judged against its base and against the first."""
    uri = f"sqlite:///{world.root / 'served.db'}"
    tracking = {"uri": uri, "registeredModel": "served", "promoteAlias": "champion"}
    first = world.run(world.manifest("serves", **SHORT, tracking=tracking), "serves")
    assert first.code == 0, first.err
    one = world.report("serves")
    assert one["promotion"]["promoted"]
    assert one["serving"] is None
    longer = {**SHORT, "budget": {"tokens": 5120}}
    second = world.run(world.manifest("follows", **longer, tracking=tracking), "follows")
    assert second.code == 0, second.err
    two = world.report("follows")
    assert two["serving"] == {"model": "served", "alias": "champion", "version": one["tracking"]["model_version"]}
    own, against = (part["benchmarks"]["python"]["tasks"]["python_words"] for part in (one, two))
    assert against["serving"]["baseline"]["accuracy"] == own["final"]["accuracy"]
    assert against["serving"]["final"] == against["final"]
    for name in ("code", "general"):
        flips = two["sets"][name]["serving"]
        assert flips["top1"]["baseline"] == one["sets"][name]["flips"]["top1"]["final"]
        assert flips["top1"]["final"] == two["sets"][name]["flips"]["top1"]["final"]
    assert "against champion (version 1)" in (world.root / "follows" / "report.html").read_text()


@pytest.mark.slow
def test_a_finished_model_is_the_one_that_is_asked(world: World, asked: dict[str, Any]) -> None:
    """With `finish` the last checkpoint is not what is exported: tasks and flips are those of the finished model."""
    finish = {"finish": [{"average": {"last": 3}}], "checkpoints": {"every": "10%", "keep": 5}}
    done = world.run(world.manifest("asked-finished", **SHORT, **finish), "asked-finished", "--processes", "2")
    assert done.code == 0, done.err
    exported = world.rewarm("export", world.root / "asked-finished", world.root / "finished-model")
    assert exported.code == 0, exported.err
    report = world.report("asked-finished")
    compared = world.rewarm("compare", world.root / "asked-finished", world.root / "finished-model", "-o", "json")
    assert compared.code == 0, compared.err
    line = compared.json["benchmarks"]["python"]["tasks"]["python_words"]
    assert line["second"]["choice_loss"] == pytest.approx(line["first"]["choice_loss"], rel=1e-5)
    assert line["flips"]["negative"]["mean"] == line["flips"]["positive"]["mean"] == 0
    own = report["benchmarks"]["python"]["tasks"]["python_words"]["final"]
    assert own["choice_loss"] == pytest.approx(line["first"]["choice_loss"])
    final = answers(world, "asked-finished", "final")
    assert final["items"] != answers(world, "asked", "final")["items"], "an average is not the last checkpoint"
    assert report["gates"][0]["value"] == report["benchmarks"]["python"]["negative_flips"]["mean"]
    for name in ("code", "general"):
        flips = compared.json["sets"][name]["flips"]
        assert flips["negative"]["mean"] == flips["positive"]["mean"] == 0
        assert report["sets"][name]["flips"]["top1"]["final"] == flips["top1"]["final"]
