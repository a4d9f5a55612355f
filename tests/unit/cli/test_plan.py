"""`rewarm plan`: JSON names of cli.md, numbers of trainer.md, no files needed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_api.resolve import resolve
from rewarm_api.validate import validate
from rewarm_cli import planning, speeding
from rewarm_trainer.marks import is_checkpoint_step, is_evaluation_step
from rewarm_trainer.techniques import Machine

REPLAY = {"ratio": 0.25, "sources": [{"name": "old", "uri": "old.jsonl", "license": "CC0"}]}
INFINITE = {
    "kind": "Infinite",
    "peakLearningRate": 0.001,
    "constantLearningRate": 0.0005,
    "warmup": "10%",
    "cooldown": {"length": "40%", "decay": "Cosine"},
    "anneal": {"length": "20%", "decay": "Linear"},
}


def test_numbers_and_segments(rewarm, manifest):
    result = rewarm("plan", manifest(), "-o", "json")
    assert result.code == 0
    assert {key: result.json[key] for key in ("tokens", "steps", "tokens_per_step", "segments", "at")} == {
        "tokens": 10_000,
        "steps": 100,
        "tokens_per_step": 100,
        "segments": [
            {"kind": "Warmup", "start": 0, "end": 1000, "from": 0.0, "to": 0.001},
            {"kind": "Decay", "start": 1000, "end": 10_000, "from": 0.001, "to": 0.0001},
        ],
        "at": [],
    }


def test_the_budget_is_rounded_up_to_whole_steps(rewarm, manifest):
    result = rewarm("plan", manifest(budget={"tokens": 10_001}), "-o", "json").json
    assert (result["tokens"], result["steps"], result["requested_tokens"]) == (10_100, 101, 10_001)


def test_zero_length_segments_are_left_out(rewarm, manifest):
    schedule = {"peakLearningRate": 0.001, "warmup": 0}
    result = rewarm("plan", manifest(schedule=schedule), "--at", "0", "-o", "json").json
    assert [segment["kind"] for segment in result["segments"]] == ["Decay"]
    assert result["at"][0]["learning_rate"] == 0.001


def test_learning_rate_and_rows_at_positions(rewarm, manifest):
    result = rewarm("plan", manifest(), "--at", "0,105,1K,5500,10K", "-o", "json").json
    rates = [item["learning_rate"] for item in result["at"]]
    middle = 0.0001 + 0.0009 / 2 * (math.cos(math.pi * 0.5) + 1)
    assert rates == pytest.approx([0, 0.000105, 0.001, middle, 0.0001], rel=1e-12)
    # abcaabacba repeated: {a: 5, b: 3, c: 2}
    assert [item["sources"] for item in result["at"]] == [
        {"a": 0, "b": 0, "c": 0},
        {"a": 5, "b": 3, "c": 2},
        {"a": 50, "b": 30, "c": 20},
        {"a": 275, "b": 165, "c": 110},
        {"a": 500, "b": 300, "c": 200},
    ]
    assert [item["tokens"] for item in result["at"]] == [0, 105, 1000, 5500, 10_000]


def test_replay_takes_its_share(rewarm, manifest):
    result = rewarm("plan", manifest(replay=REPLAY), "--at", "10K", "-o", "json").json
    assert result["at"][0]["sources"]["old"] == 250
    assert result["cost"]["replay_tokens"] == 2500
    assert result["sources"]["old"] == {"group": "Replay", "rows": 250, "tokens": 2500, "share": 0.25, "epochs": None}


def test_unweighted_replay_at_ratio_zero_needs_no_counts(rewarm, manifest):
    sources = [{"name": name, "uri": f"{name}.jsonl", "license": "CC0"} for name in ("x", "y")]
    result = rewarm("plan", manifest(replay={"ratio": 0, "sources": sources}), "--at", "10K", "-o", "json")
    assert result.code == 0
    assert result.json["at"][0]["sources"] == {"a": 500, "b": 300, "c": 200, "x": 0, "y": 0}


@pytest.mark.parametrize("at", ["10001", "11K", "0,1M", "5%", "-1", "many", "1.0005K"])
def test_positions_outside_the_plan_are_64(rewarm, manifest, at):
    result = rewarm("plan", manifest(), "--at", at, "-o", "json")
    assert (result.code, result.out) == (64, "")
    assert "--at" in result.err
    assert at.split(",")[-1] in result.err


def test_an_invalid_manifest_gives_the_json_of_validate(rewarm, manifest):
    path = manifest(replay={**REPLAY, "ratio": 1.2})
    result = rewarm("plan", path, "-o", "json")
    assert result.code == 64
    assert result.json == rewarm("validate", path, "-o", "json").json
    assert "spec.replay.ratio: found 1.2, expected 0 <= ratio < 1" in result.err
    people = rewarm("plan", path)
    assert (people.code, people.out) == (64, "")


def test_no_such_file_is_66(rewarm, tmp_path):
    assert rewarm("plan", tmp_path / "none.yaml").code == 66


def test_people_see_segments_sources_and_ends(rewarm, manifest):
    result = rewarm("plan", manifest(replay=REPLAY, schedule=INFINITE))
    for word in (
        "10K tokens in 100 steps",
        "Cooldown",
        "Anneal",
        "old",
        "25.00%",
        "7.5K new tokens and 2.5K of replay",
    ):
        assert word in result.out


def test_a_trunk_is_called_one(rewarm, manifest):
    path = manifest(schedule={key: value for key, value in INFINITE.items() if key != "anneal"})
    assert rewarm("plan", path, "-o", "json").json["trunk"] is True
    assert "never promoted" in rewarm("plan", path).out


def test_counts_are_prepared_only_when_something_defaults_to_them(rewarm, manifest):
    unweighted = {"sources": [{"name": name, "uri": f"{name}.jsonl", "license": "CC0"} for name in ("x", "y")]}
    # The files do not exist: that it says so shows that it looked.
    for spec in ({"corpus": unweighted}, {"budget": {"epochs": 2}}):
        result = rewarm("plan", manifest(**spec), "-o", "json")
        assert (result.code, result.out) == (66, "")
    lone = {"sources": unweighted["sources"][:1]}
    assert rewarm("plan", manifest(corpus=lone), "-o", "json").code == 0


def test_plot_is_a_picture(rewarm, manifest, tmp_path):
    picture = tmp_path / "plan.png"
    result = rewarm("plan", manifest(replay=REPLAY, schedule=INFINITE), "--plot", picture)
    assert result.code == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["none/plan.png", "plan.docx"])
def test_a_plot_that_cannot_be_written_is_66(rewarm, manifest, tmp_path, name):
    result = rewarm("plan", manifest(), "--plot", tmp_path / name)
    assert result.code == 66
    assert "--plot" in result.err


@given(
    budget=st.integers(1, 3_000_000),
    rows=st.integers(1, 64),
    every=st.integers(1, 3_000_000),
    at=st.floats(0, 1),
)
def test_facts_agree_with_the_trainer(budget, rows, every, at):
    document = {
        "apiVersion": "rewarm.dev/v1alpha1",
        "kind": "ContinualRun",
        "metadata": {"name": "demo"},
        "spec": {
            "baseModel": {"file": {"path": "base"}},
            "corpus": {"sources": [{"name": "new", "uri": "a.jsonl"}]},
            "replay": REPLAY,
            "schedule": {"peakLearningRate": 0.001},
            "budget": {"tokens": budget},
            "training": {"sequenceLength": 100, "globalBatchTokens": 100 * rows},
            "evaluation": {"every": every},
            "checkpoints": {"every": every},
        },
    }
    run = validate(document, local=True).run
    snapshot = resolve(run, uid="u")
    plan = snapshot.plan
    position = round(plan.tokens * at)
    facts = planning.plan_facts(snapshot, plan, planning.mixture_of(snapshot), at=[position])
    assert sum(item["rows"] for item in facts["sources"].values()) == plan.steps * plan.rows_per_step
    assert sum(facts["at"][0]["sources"].values()) == position // 100
    assert facts["cost"]["new_tokens"] + facts["cost"]["replay_tokens"] == plan.tokens
    if plan.steps <= 2000:
        steps = range(1, plan.steps + 1)
        assert facts["checkpoints"]["count"] == sum(is_checkpoint_step(plan, step) for step in steps)
        assert facts["evaluation"]["looks"] == sum(is_evaluation_step(plan, step) for step in steps)


def test_techniques_are_listed_with_reason_and_switch(rewarm, manifest, monkeypatch):
    monkeypatch.setenv("REWARM_COMPILE", "off")
    monkeypatch.setenv("REWARM_CHUNKED_LOSS", "on")
    speed = rewarm("plan", manifest(), "-o", "json").json["speed"]
    found = {each["name"]: each for each in speed["techniques"]}
    compiled, chunked = found["blocks compiled one by one"], found["head and loss in chunks"]
    assert (compiled["on"], compiled["why"], compiled["switch"]) == (False, "as asked", "REWARM_COMPILE")
    assert (chunked["on"], chunked["why"], chunked["switch"]) == (True, "as asked", "REWARM_CHUNKED_LOSS")
    shown = rewarm("plan", manifest()).out
    assert "Speed on this machine" in shown
    assert "head and loss in chunks" in shown


def test_a_manifest_that_asks_for_gpus_is_told_what_is_on_there(rewarm, manifest):
    speed = rewarm("plan", manifest(compute={"nodes": 2, "gpusPerNode": 8}), "-o", "json").json["speed"]
    assert (speed["device"], speed["where"]) == ("cuda", "a node with GPUs")
    (sharded,) = [each for each in speed["techniques"] if each["switch"] == "spec.training.parallelism"]
    assert (sharded["on"], sharded["why"]) == (False, "the model's size is not known yet")


def test_the_switches_of_pods_are_the_manifests_not_this_shells(rewarm, manifest, monkeypatch):
    monkeypatch.setenv("REWARM_COMPILE", "off")

    def compiled(**compute: object) -> tuple[bool, str]:
        speed = rewarm("plan", manifest(compute={"nodes": 1, "gpusPerNode": 8, **compute}), "-o", "json").json["speed"]
        (found,) = [each for each in speed["techniques"] if each["switch"] == "REWARM_COMPILE"]
        return found["on"], found["why"]

    assert compiled() == (True, "it pays at once on a GPU")
    asked = {"podTemplate": {"env": [{"name": "REWARM_COMPILE", "value": "off"}]}}
    assert compiled(**asked) == (False, "as asked")


def test_pods_without_gpus_have_the_manifests_switches_and_no_compiler(rewarm, manifest, monkeypatch):
    monkeypatch.setenv("REWARM_COMPILE", "on")
    monkeypatch.setenv("REWARM_CHUNKED_LOSS", "off")
    env = [{"name": "REWARM_CHUNKED_LOSS", "value": "on"}]
    compute = {"nodes": 1, "gpusPerNode": 0, "podTemplate": {"env": env}}
    speed = rewarm("plan", manifest(compute=compute), "-o", "json").json["speed"]
    found = {each["switch"]: (each["on"], each["why"]) for each in speed["techniques"]}
    assert (speed["device"], speed["where"]) == ("cpu", "a pod without GPUs, on a node like this machine")
    assert found["REWARM_COMPILE"] == (False, "there is no compiler")
    assert found["REWARM_CHUNKED_LOSS"] == (True, "as asked")


def test_attention_is_chosen_for_the_models_heads_as_training_chooses(rewarm, manifest, monkeypatch):
    """Plain attention keeps scores of every head: with many of them it would not fit, and SDPA is taken."""
    monkeypatch.setenv("REWARM_COMPILE", "on")

    def plain(heads: object) -> bool:
        config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        base = {"scratch": {"config": {**config, "num_attention_heads": heads}, "tokenizer": {"vocabularySize": 512}}}
        training = {"sequenceLength": 1024, "globalBatchTokens": 8192, "precision": "BF16"}
        speed = rewarm("plan", manifest(baseModel=base, training=training), "-o", "json").json["speed"]
        (found,) = [each for each in speed["techniques"] if each["name"].startswith("plain attention")]
        return bool(found["on"])

    monkeypatch.setattr(speeding.machine, "find", lambda: Machine("cpu", True, True, 1 << 30))
    assert plain(heads=1)
    assert not plain(heads=16)
    assert plain(heads="16"), "a number that nobody knows, and no traceback"
