"""Branches of a trunk: annealed at any time, without touching it, on text that it has not seen yet."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from rewarm_world import World, read_until

TRUNK: dict[str, Any] = {
    "schedule": {
        "kind": "Infinite",
        "peakLearningRate": 4e-3,
        "constantLearningRate": 2e-3,
        "warmup": "10%",
        "cooldown": {"length": "40%"},
    },
    "checkpoints": {"every": "10%", "keep": 3},
}


def branch(path: str, checkpoint: str | int = "Final", **anneal: Any) -> dict[str, Any]:
    return {
        "baseModel": {"run": {"path": path, "checkpoint": checkpoint, "anneal": {"length": "100%", **anneal}}},
        "schedule": {"peakLearningRate": 4e-3, "finalLearningRate": 0},
        "budget": {"tokens": 2048},
        "gates": {"minGain": -1.0},
    }


def steps(world: World, name: str) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in world.log(name) if "event" not in line}


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Bytes and time of change of every file."""
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def trunk(world: World) -> dict[str, Any]:
    done = world.run(world.manifest("branched", **TRUNK), "branched")
    assert done.code == 0, done.err
    return world.report("branched")


def test_a_branch_of_a_finished_trunk(world: World, trunk: dict[str, Any]) -> None:
    before = fingerprint(world.root / "branched")
    manifest = world.manifest("released", **branch("branched"))
    plan = world.rewarm("plan", manifest, "-o", "json").json
    assert plan["segments"] == [{"kind": "Anneal", "start": 0, "end": 2048, "from": 2e-3, "to": 0.0}]
    done = world.run(manifest, "released")
    assert done.code == 0, done.err
    assert fingerprint(world.root / "branched") == before, "the trunk is not touched"
    rates = [line["learning_rate"] for line in steps(world, "released").values()]
    assert rates == pytest.approx([2e-3 * (1 - (step / 8) ** 0.5) for step in range(1, 9)], abs=1e-15)
    report = world.report("released")
    assert report["promotion"]["promoted"] is True, "a branch may be released, its trunk may not"
    assert trunk["promotion"]["promoted"] is False
    assert report["sets"]["code"]["delta"]["mean"] < 0, "better than the trunk that it left"
    assert report["sets"]["code"]["baseline"] == trunk["sets"]["code"]["final"]
    # 40 steps of 8 rows, a quarter of them replay: the branch goes on where the trunk stood.
    (phase,) = report["phases"]
    assert phase["skipped"] == {"code": 240, "general": 80}
    assert report["tokens"]["by_source"] == {"code": 48 * 32, "general": 16 * 32}


def test_a_branch_anneals_what_an_uninterrupted_run_would(world: World) -> None:
    """A trunk of 32 steps and its branch of 8 are, bit for bit, one Infinite run of 40 steps with an anneal."""
    lengths = {"warmup": 1024, "cooldown": {"length": 4096}}
    whole = {**TRUNK["schedule"], **lengths, "finalLearningRate": 0, "anneal": {"length": 2048, "decay": "Linear"}}
    assert world.run(world.manifest("uncut", **{**TRUNK, "schedule": whole}), "uncut").code == 0
    short = {**TRUNK, "schedule": {**TRUNK["schedule"], **lengths}, "budget": {"tokens": 8192}}
    assert world.run(world.manifest("stem", **short), "stem").code == 0
    assert world.run(world.manifest("twig", **branch("stem", decay="Linear")), "twig").code == 0
    ends = [world.root / name / "checkpoints" / f"step-{step:08d}" for name, step in (("uncut", 40), ("twig", 8))]
    assert (ends[0] / "model.safetensors").read_bytes() == (ends[1] / "model.safetensors").read_bytes()
    assert (ends[0] / "optimizer.safetensors").read_bytes() == (ends[1] / "optimizer.safetensors").read_bytes()


def test_a_branch_of_a_running_trunk_outlives_the_checkpoint_that_it_left(world: World, trunk: dict[str, Any]) -> None:
    process = world.start("run", world.manifest("trunk", **TRUNK), "--workdir", world.root / "running")
    read_until(process, lambda line: "checkpoint committed after step 24" in line)
    process.send_signal(signal.SIGSTOP)  # the trunk must not be finished when the branch begins
    manifest = world.manifest("early", **branch("running", "Latest"))
    second = world.start("run", manifest, "--workdir", world.root / "early")
    read_until(second, lambda line: line.startswith("step 1/"))
    second.kill()
    second.wait()
    process.send_signal(signal.SIGCONT)
    process.communicate()
    assert process.returncode == 0, "the trunk went on"
    same = "checkpoints/step-00000040/model.safetensors"
    assert (world.root / "running" / same).read_bytes() == (world.root / "branched" / same).read_bytes()
    step = json.loads((world.root / "early" / "pins.json").read_text())["baseModel"]["step"]
    shutil.rmtree(world.root / "running" / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    done = world.run(manifest, "early")
    assert done.code == 0, done.err
    assert world.report("early")["tokens"]["trained"] == 2048


def test_what_is_no_trunk_is_refused(world: World, trunk: dict[str, Any], finished: Any) -> None:
    done = world.run(world.manifest("of-rewarm", **branch("whole")), "of-rewarm")
    assert done.code == 64
    assert "spec.baseModel.run.anneal: found run whole, whose schedule is Rewarm" in done.err
    high = branch("branched")
    high["schedule"]["peakLearningRate"] = 1e-3
    done = world.run(world.manifest("too-low", **high), "too-low")
    assert done.code == 64
    assert "spec.schedule.peakLearningRate: found 0.001, expected no less than the trunk's learning rate" in done.err
    world.run(world.manifest("released-again", **branch("branched")), "released-again")
    done = world.run(world.manifest("of-a-branch", **branch("released-again")), "of-a-branch")
    assert done.code == 64
    assert "whose schedule is Anneal" in done.err
