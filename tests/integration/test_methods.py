"""Methods through the real command: schedules, the optimizer's state, mixtures, replay of a run, freezing, divergence.

All runs continue one trunk: an Infinite run on general text, which ends in its constant segment.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from rewarm_world import World, functions, write_lines

TRUNK_STEPS = 40
ON_TRUNK = {"baseModel": {"run": {"path": "trunk"}}, "evaluation__every": "50%", "checkpoints__every": "50%"}


@pytest.fixture(scope="session")
def trunk(world: World) -> dict[str, Any]:
    """The report of a trunk on general text."""
    manifest = world.manifest(
        "trunk",
        corpus__sources=[{"name": "general", "uri": "data/general.jsonl", "license": "PSF-2.0"}],
        replay=None,
        schedule={
            "kind": "Infinite",
            "peakLearningRate": 4e-3,
            "constantLearningRate": 2e-3,
            "warmup": "10%",
            "cooldown": {"length": "40%", "decay": "InverseSqrt"},
        },
        gates={"minGain": 0.1},
    )
    done = world.run(manifest, "trunk")
    assert done.code == 0, done.err
    return world.report("trunk")


def run(world: World, name: str, **changes: Any) -> dict[str, Any]:
    done = world.run(world.manifest(name, **{**ON_TRUNK, **changes}), name)
    assert done.code == 0, done.err
    return world.report(name)


def tensors(world: World, name: str, file: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(Path(world.report(name)["checkpoint"]["uri"]) / file)


def updates_counted(world: World, name: str) -> set[float]:
    """What the optimizer's step counts say, one for each weight that it trained."""
    saved = tensors(world, name, "optimizer.safetensors")
    return {float(value) for key, value in saved.items() if key.startswith("step/")}


def steps(world: World, name: str) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in world.log(name) if "event" not in line}


def test_a_trunk_ends_at_the_constant_rate_and_is_not_promoted(world: World, trunk: dict[str, Any]) -> None:
    rates = {step: line["learning_rate"] for step, line in steps(world, "trunk").items()}
    assert rates[4] == pytest.approx(4e-3)
    assert rates[20] == rates[40] == 2e-3
    assert trunk["promotion"]["promoted"] is False
    assert "trunk" in trunk["promotion"]["reason"]
    assert [gate["result"] for gate in trunk["gates"]] == ["Pass"]
    assert updates_counted(world, "trunk") == {TRUNK_STEPS}
    assert (trunk["forgetting"]["max"], trunk["replay"]) == (None, {"requested": 0.0, "realized": 0.0})


def test_a_run_on_a_trunk_keeps_its_optimizer_and_its_own_settings(world: World, trunk: dict[str, Any]) -> None:
    report = run(
        world,
        "branch",
        schedule={"kind": "Constant", "peakLearningRate": 1e-3, "warmup": 0},
        budget={"tokens": 2048},
        training__optimizer={"beta1": 0.5},
    )
    assert updates_counted(world, "branch") == {TRUNK_STEPS + 8}
    assert {line["learning_rate"] for line in steps(world, "branch").values()} == {1e-3}, "not the trunk's 2e-3"
    pinned = json.loads((world.root / "branch" / "pins.json").read_text())["baseModel"]
    assert pinned["in_constant_segment"] is True
    assert (pinned["name"], pinned["step"]) == ("trunk", TRUNK_STEPS)
    assert report["sets"]["general"]["baseline"]["loss"] == trunk["sets"]["general"]["final"]["loss"]
    assert report["tokens"]["trained"] == 2048


def test_reset_moments_is_a_fresh_optimizer_and_frozen_weights_stay(world: World, trunk: dict[str, Any]) -> None:
    """WarmupStableDecay, half of the weights frozen, activations recomputed; the two policies give the same bits."""
    changes = {
        "schedule": {
            "kind": "WarmupStableDecay",
            "peakLearningRate": 2e-3,
            "finalLearningRate": 0,
            "warmup": "25%",
            "decayLength": "25%",
            "decay": "Linear",
        },
        "budget": {"tokens": 2048},
        "training__freeze": ["*embed_tokens*", "model.layers.0.*"],
        "training__activationCheckpointing": "Full",
        "training__adaptation": "Full",
    }
    for policy in ("ResetMoments", "Reset"):
        changes["schedule"]["optimizerState"] = policy  # type: ignore[index]
        run(world, policy.lower(), **changes)
        assert updates_counted(world, policy.lower()) == {8}
    first, second = (tensors(world, name, "model.safetensors") for name in ("resetmoments", "reset"))
    before = tensors(world, "trunk", "model.safetensors")
    assert first.keys() == second.keys() == before.keys()
    assert all(bool((first[name] == second[name]).all()) for name in first)
    unmoved = {name for name in first if bool((first[name] == before[name]).all())}
    assert unmoved == {name for name in first if "embed_tokens" in name or name.startswith("model.layers.0.")}
    rates = [line["learning_rate"] for line in steps(world, "reset").values()]
    assert rates == pytest.approx([1e-3, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3, 1e-3, 0.0])


def test_epochs_two_corpora_by_weight_and_replay_of_what_the_trunk_saw(world: World, trunk: dict[str, Any]) -> None:
    write_lines(world.root / "data" / "more.jsonl", functions()[300:420])
    report = run(
        world,
        "mixture",
        corpus__sources=[
            {"name": "code", "uri": "data/code.jsonl", "weight": 1},
            {"name": "more", "uri": "data/more.jsonl", "weight": 2},
        ],
        replay={"ratio": 0.3, "fromRun": {"path": "trunk"}},
        budget={"epochs": 0.05},
        evaluation__heldOut={"minimumDocuments": 16, "maximumTokens": 1000},
        gates={"minGain": 0.0},
    )
    pins = json.loads((world.root / "mixture" / "pins.json").read_text())
    counts = {name: pin["rows"] for name, pin in pins["sources"].items()}
    assert counts["general"] == trunk["tokens"]["by_source"]["general"] // 32, "the rows that the trunk saw, no others"
    corpus_rows = counts["code"] + counts["more"]
    requested = -(-Fraction(5, 100) * corpus_rows * 32 / Fraction(7, 10) // 1)
    tokens = report["tokens"]
    assert tokens["requested"] == requested
    assert tokens["trained"] == -(-requested // 256) * 256
    rows = tokens["trained"] // 32
    replayed = int(rows * Fraction(3, 10) + Fraction(1, 2))
    code = int((rows - replayed) * Fraction(1, 3) + Fraction(1, 2))
    expected = {"general": replayed, "code": code, "more": rows - replayed - code}
    assert tokens["by_source"] == {name: count * 32 for name, count in expected.items()}
    assert tokens["epochs"] == {name: pytest.approx(count / counts[name]) for name, count in expected.items()}
    assert report["replay"] == {"requested": 0.3, "realized": pytest.approx(replayed / rows)}
    roles = {name: value["role"] for name, value in report["sets"].items()}
    assert roles == {"code": "New", "more": "New", "general": "Retained"}, "what the trunk knew is asked again"
    new = [value for value in report["sets"].values() if value["role"] == "New"]
    assert {value["documents"] < 30 for value in new} == {True}
    assert {value["verdict"] for value in new} == {None}
    assert [gate["result"] for gate in report["gates"]] == ["Inconclusive"]
    assert (report["promotion"]["promoted"], "too few documents" in report["promotion"]["reason"]) == (False, True)
    assert not any("proxy replay" in remark for remark in report["remarks"]), "it is the base's own data"
    check_replayed_rows(world)


def check_replayed_rows(world: World) -> None:
    """Every row that the run replayed is one that the trunk trained on, found in the trunk's own order."""
    from rewarm_trainer.from_run import earlier_sources
    from rewarm_trainer.prepared_run import Run
    from rewarm_trainer.workdir import WorkFolder
    from rewarm_trainer.worker import open_run

    cache = world.root / "cache" / "rewarm"
    opened: dict[str, Run] = {name: open_run(WorkFolder(world.root / name), cache) for name in ("trunk", "mixture")}
    from rewarm_trainer.corpus.source import open_source
    from rewarm_trainer.order import Phase

    whole = open_source((world.root / "trunk" / "corpora" / "general").resolve(), "general", 32)

    def drawn(name: str, source: Any, ratio: float) -> Counter[bytes]:
        order = opened[name].new_order([Phase(0, ratio)])
        places = [place for step in range(opened[name].plan.steps) for place in order.rows(step)]
        return Counter(source.row(place.row).tobytes() for place in places if place.source == "general")

    seen = drawn("trunk", whole, 0.0)
    subset = earlier_sources(opened["mixture"].snapshot, world.root, cache)["general"]
    replayed = drawn("mixture", subset, 0.3)
    assert replayed
    assert not replayed - seen
    assert len(seen) < whole.rows, "there were rows that the trunk never saw"


POISON = "\N{SNOWMAN}"  # a byte of it stands in no other text here


@pytest.fixture(scope="session")
def poisoned(world: World, trunk: dict[str, Any]) -> str:
    """A base whose loss is not finite on one document, and that document in a corpus, where it is not held out."""
    import hashlib

    import torch

    from rewarm_trainer.corpus.tokenizer import TokenizerHandle
    from rewarm_trainer.export import export

    folder = world.root / "poisoned"
    export(world.root / "trunk", None, folder)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    token = TokenizerHandle.load(folder).encode_batch([POISON])[0][0]
    head = model.get_input_embeddings().weight.detach().clone()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    model.save_pretrained(folder)
    texts = functions()[:200]
    bad = max(
        (f"{number} {POISON} {texts[0]}" for number in range(50)),
        key=lambda text: hashlib.sha256(b"rewarm-heldout-v1" + text.encode()).digest(),
    )
    write_lines(world.root / "data" / "poisoned.jsonl", [*texts, bad])
    return "data/poisoned.jsonl"


def test_rows_that_diverge_are_passed_over(world: World, poisoned: str) -> None:
    changes = {
        "baseModel": {"file": {"path": "poisoned"}},
        "corpus__sources": [{"name": "code", "uri": poisoned}],
        "budget": {"epochs": 1},
        "training__globalBatchTokens": 1024,
        "training__divergence": {"rollbacks": 1, "skipSteps": 2},
        "checkpoints__every": "10%",
        "replay__maxRepeats": 20,
    }
    report = run(world, "poisoned-run", **changes)
    (decision,) = report["decisions"]
    assert decision["what"] == "RolledBack"
    assert re.search(r"not finite \((code row \d+(, )?)+\); back to step", decision["why"])
    first, second = report["phases"]
    assert (first["first_step"], first["reason"], second["reason"]) == (0, "start", "diverged")
    # From the checkpoint it went back to, past the broken update and one more, counted in rows of 32 tokens.
    passed_over = (decision["step"] + 1 - second["first_step"]) * 32
    assert sum(second["skipped"].values()) == passed_over > 0
    assert sum(report["tokens"]["by_source"].values()) == report["tokens"]["trained"]
    assert report["replay"]["realized"] == pytest.approx(0.25, abs=0.01)
    logged = [line for line in world.log("poisoned-run") if line.get("event") == "decision"]
    assert [line["why"] for line in logged] == [decision["why"]]
    assert all(isinstance(line["loss"], float) for line in steps(world, "poisoned-run").values())


def test_a_rate_that_destroys_the_model_ends_with_76(world: World, trunk: dict[str, Any]) -> None:
    manifest = world.manifest(
        "exploding",
        **{**ON_TRUNK, "schedule": {"kind": "Constant", "peakLearningRate": 1e30, "warmup": 0}},
    )
    done = world.run(manifest, "exploding")
    assert done.code == 76, done.err
    assert re.search(r"(no single row broke it|the weights diverged, not a row)\), and all 2 rollbacks", done.err)
    assert "of spec.training.divergence are spent; lower spec.schedule.peakLearningRate" in done.err
    report = world.report("exploding")
    assert report["outcome"] == "Diverged"
    assert [attempt["cause"] for attempt in report["attempts"]] == ["Diverged"]
    assert [decision["what"] for decision in report["decisions"]] == ["RolledBack", "RolledBack"]
    assert report["sets"]["code"]["final"] == {"loss": None, "bits_per_byte": None}
    assert report["promotion"]["promoted"] is False
