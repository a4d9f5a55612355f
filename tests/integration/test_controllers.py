"""Controllers through the real command, on a model that really forgets: decisions in the phase log, exact resumes."""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rewarm_world import World, read_until

STEPS = 60
MANY_DOCUMENTS = {"heldOut": {"maximumTokens": 8000, "minimumDocuments": 48}, "every": "5%", "lookTokens": 20000}


@pytest.fixture(scope="session")
def base(world: World) -> Path:
    """A model that knows the general text."""
    manifest = world.manifest(
        "forgetful-base",
        corpus__sources=[{"name": "general", "uri": "data/general.jsonl", "license": "PSF-2.0"}],
        replay=None,
        schedule={"peakLearningRate": 4e-3, "warmup": "10%"},
        budget={"tokens": 25600},
        evaluation=MANY_DOCUMENTS,
    )
    done = world.run(manifest, "forgetful-base")
    assert done.code == 0, done.err
    return world.root / "forgetful-base"


def on_base(world: World, name: str, **changes: Any) -> Path:
    return world.manifest(
        name,
        **{
            "baseModel": {"run": {"path": "forgetful-base"}},
            "schedule": {"peakLearningRate": 4e-3, "warmup": "5%"},
            "budget": {"tokens": STEPS * 256},
            "evaluation": MANY_DOCUMENTS,
            **changes,
        },
    )


def steps(world: World, workdir: str) -> dict[int, dict[str, Any]]:
    """Every update; of one that was recomputed, the last."""
    return {line["step"]: line for line in world.log(workdir) if "event" not in line}


def losses(world: World, workdir: str) -> dict[int, tuple[float, dict[str, int]]]:
    return {step: (line["loss"], line["rows"]) for step, line in steps(world, workdir).items()}


def final_weights(folder: Path) -> bytes:
    return (folder / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors").read_bytes()


ADAPTIVE = {
    "ratio": 0.1,
    "sources": [{"name": "general", "uri": "data/general.jsonl", "license": "PSF-2.0"}],
    "adaptive": {"forgettingBudget": 0.02, "minimum": "5%", "maximum": "50%"},
    "maxRepeats": 100,
}


@pytest.fixture(scope="session")
def steered(world: World, base: Path) -> dict[str, Any]:
    """A run whose forgetting is far beyond its budget, undisturbed."""
    done = world.run(on_base(world, "steered", replay=ADAPTIVE), "steered")
    assert done.code == 0, done.err
    return world.report("steered")


def test_forgetting_beyond_the_budget_raises_replay_up_to_its_maximum(world: World, steered: dict[str, Any]) -> None:
    phases = steered["phases"]
    ratios = [phase["ratio"] for phase in phases]
    assert ratios[0] == 0.1
    assert ratios == sorted(ratios)
    assert ratios[-1] == 0.5
    assert {phase["reason"] for phase in phases[1:]} == {"forgettingBudget"}
    assert phases[1]["first_step"] > STEPS // 10, "not in the stability gap"
    moves = [decision for decision in steered["decisions"] if decision["what"] == "ReplayRaised"]
    assert [(move["from"], move["to"], move["step"]) for move in moves] == [
        (old["ratio"], new["ratio"], new["first_step"]) for old, new in pairwise(phases)
    ]
    assert all("beyond the budget 0.02 and not coming back" in move["why"] for move in moves)
    assert steered["replay"]["requested"] == 0.1
    assert steered["replay"]["realized"] > 0.2
    borders = [phase["first_step"] for phase in phases] + [STEPS]
    wanted = sum(
        (end - start) * 8 * phase["ratio"] for phase, start, end in zip(phases, borders, borders[1:], strict=False)
    )
    assert abs(steered["tokens"]["by_source"]["general"] / 32 - wanted) <= len(phases)


def test_a_run_that_forgets_nothing_needs_less_replay(world: World, base: Path) -> None:
    """A model from scratch has nothing to forget: its loss on the old text only falls."""
    replay = {**ADAPTIVE, "ratio": 0.4}
    assert world.run(world.manifest("calm", replay=replay, evaluation=MANY_DOCUMENTS), "calm").code == 0
    ratios = [phase["ratio"] for phase in world.report("calm")["phases"]]
    assert ratios[:3] == [0.4, 0.2, 0.1]
    assert min(ratios) >= 0.05


def test_killed_after_a_decision_and_resumed_bit_for_bit(world: World, steered: dict[str, Any]) -> None:
    manifest = on_base(world, "steered-killed", replay=ADAPTIVE)
    for moment in ("ReplayRaised", "step 33/"):
        process = world.start("run", manifest, "--workdir", world.root / "steered-killed")
        read_until(process, lambda line, moment=moment: moment in line)  # type: ignore[misc]
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert world.run(manifest, "steered-killed").code == 0
    report = world.report("steered-killed")
    assert report["phases"] == steered["phases"]
    assert report["decisions"] == steered["decisions"]
    assert losses(world, "steered-killed") == losses(world, "steered")
    assert final_weights(world.root / "steered-killed") == final_weights(world.root / "steered")
    assert report["sets"] == steered["sets"]


def test_two_processes_come_to_the_same_decisions(world: World, steered: dict[str, Any]) -> None:
    manifest = on_base(world, "steered-two", replay=ADAPTIVE)
    done = world.run(manifest, "steered-two", "--processes", "2")
    assert done.code == 0, done.err
    assert [(phase["first_step"], phase["ratio"]) for phase in world.report("steered-two")["phases"]] == [
        (phase["first_step"], phase["ratio"]) for phase in steered["phases"]
    ]
