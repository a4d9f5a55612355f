"""Runs whose weights, gradients and moments are divided among two real processes: exact, durable, like any other."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from rewarm_world import World, read_until
from safetensors.torch import load_file

STEPS = 40
MODELS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def losses(world: World, workdir: str) -> dict[int, tuple[float, dict[str, int]]]:
    """Loss and cumulative rows of every update; of one that was recomputed, the last."""
    return {line["step"]: (line["loss"], line["rows"]) for line in world.log(workdir) if "event" not in line}


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


def contents(folder: Path) -> dict[str, bytes]:
    """The tensors of a checkpoint, as they lie on disk."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def started(world: World, workdir: str) -> list[tuple[int, str]]:
    """Processes and strategy of every attempt."""
    records = [line for line in world.log(workdir) if line.get("event") == "attempt started"]
    return [(line["processes"], line["environment"]["parallelism"]) for line in records]


@pytest.fixture(scope="module")
def sharded(world: World) -> Path:
    """An undisturbed run; read it, never change it."""
    manifest = world.manifest("sharded", training__parallelism="Sharded")
    done = world.run(manifest, "sharded", "--processes", "2")
    assert done.code == 0, done.err
    return world.root / "sharded"


def test_it_is_the_run_that_one_process_makes(world: World, sharded: Path, finished: object) -> None:
    assert started(world, "sharded") == [(2, "Sharded")]
    one, two = losses(world, "whole"), losses(world, "sharded")
    assert {step: rows for step, (_, rows) in two.items()} == {step: rows for step, (_, rows) in one.items()}
    assert all(abs(two[step][0] - one[step][0]) < 1e-3 for step in one)
    alone, both = world.report("whole"), world.report("sharded")
    assert both["outcome"] == "Succeeded"
    assert both["model"] == alone["model"]
    for name, found in both["sets"].items():
        assert found["delta"]["mean"] == pytest.approx(alone["sets"][name]["delta"]["mean"], abs=1e-3)


def test_every_process_writes_its_own_files_and_they_are_one_model(world: World, sharded: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = checkpoint(sharded, STEPS)
    assert [path.name for path in sorted(folder.glob("model-*"))] == MODELS
    assert not (folder / "model.safetensors").exists()
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {*MODELS, "optimizer-00001-of-00002.safetensors", "optimizer-00002-of-00002.safetensors"} < files.keys()
    first, second = (load_file(folder / name) for name in MODELS)
    assert not first.keys() & second.keys()
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert world.rewarm("checkpoints", sharded, "--verify").code == 0
    done = world.rewarm("export", sharded, world.root / "exported-sharded")
    assert done.code == 0, done.err
    exported = load_file(world.root / "exported-sharded" / "model.safetensors")
    assert exported.keys() == first.keys() | second.keys()
    assert all(torch.equal(tensor, {**first, **second}[name]) for name, tensor in exported.items())
    assert torch.equal(loaded.state_dict()["model.norm.weight"], exported["model.norm.weight"])


def test_killed_and_resumed_bit_for_bit(world: World, sharded: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"moment of the kill: random.Random({seed})")
    moment = random.Random(seed)
    manifest = world.manifest("sharded-killed", training__parallelism="Sharded")
    # While both upload their files, and at any moment.
    arguments = ("run", manifest, "--workdir", world.root / "sharded-killed", "--processes", "2")
    process = world.start(*arguments, REWARM_FAULT_POINT=f"commit.file:{moment.randrange(3, 16)}")
    assert process.wait() != 0
    process = world.start(*arguments)
    read_until(process, lambda line: line.startswith("step "))
    for _ in range(moment.randrange(0, 12)):
        read_until(process, lambda line: line.startswith("step ") or "checkpoint committed" in line)
    process.kill()
    process.wait()
    done = world.run(manifest, "sharded-killed", "--processes", "2")
    assert done.code == 0, done.err
    assert losses(world, "sharded-killed") == losses(world, "sharded")
    assert contents(checkpoint(world.root / "sharded-killed", STEPS)) == contents(checkpoint(sharded, STEPS))
    assert world.report("sharded-killed")["sets"] == world.report("sharded")["sets"]


def test_two_processes_then_one_then_two_then_replicated(world: World, finished: object) -> None:
    manifest = world.manifest("reshaped", training__parallelism="Sharded")
    two, one = ("--processes", "2"), ()
    whole = ("--processes", "2", "--set", "spec.training.parallelism=Replicated")
    for arguments, until in ((two, 6), (one, 14), (two, 22), (whole, STEPS)):
        process = world.start("run", manifest, "--workdir", world.root / "reshaped", *arguments)
        if until < STEPS:
            read_until(process, lambda line, until=until: line.startswith(f"step {until}/"))
            process.send_signal(signal.SIGTERM)
        _, rest = process.communicate()
        assert process.returncode == (0 if until == STEPS else 143), rest
    assert started(world, "reshaped") == [(2, "Sharded"), (1, "Replicated"), (2, "Sharded"), (2, "Replicated")]
    straight, bent = losses(world, "whole"), losses(world, "reshaped")
    assert {step: rows for step, (_, rows) in bent.items()} == {step: rows for step, (_, rows) in straight.items()}
    assert all(abs(bent[step][0] - straight[step][0]) < 1e-3 for step in straight)
    assert (checkpoint(world.root / "reshaped", STEPS) / "model.safetensors").exists()
    warnings = world.report("reshaped")["warnings"]
    assert any("parallelism was Sharded, is Replicated" in warning for warning in warnings)


@pytest.mark.parametrize("harm", ["missing", "flipped"])
def test_a_checkpoint_without_one_whole_shard_does_not_exist(world: World, sharded: Path, harm: str) -> None:
    folder = world.root / f"sharded-{harm}"
    shutil.copytree(sharded, folder, symlinks=True)
    (folder / "report.json").unlink()
    shard = checkpoint(folder, STEPS) / "optimizer-00002-of-00002.safetensors"
    if harm == "missing":
        shard.unlink()
    else:
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    listed = world.rewarm("checkpoints", folder, "--verify")
    assert listed.code == 65
    assert shard.name in listed.out + listed.err
    done = world.run(world.root / "sharded.yaml", folder.name, "--processes", "2")
    assert done.code == 0, done.err
    assert any(
        f"step-{STEPS:08d} is not used" in line["message"]
        for line in world.log(folder.name)
        if line.get("event") == "warning"
    )
    assert started(world, folder.name) == [(2, "Sharded")] * 2
    assert contents(checkpoint(folder, STEPS)) == contents(checkpoint(sharded, STEPS))


def test_a_finish_and_a_next_run_begin_from_shards(world: World, sharded: Path) -> None:
    manifest = world.manifest(
        "sharded-next",
        baseModel={"run": {"path": "sharded"}},
        training__parallelism="Sharded",
        schedule={"peakLearningRate": 1.0e-3, "warmup": "10%", "optimizerState": "Keep"},
        finish=[{"average": {"last": 2}}],
    )
    done = world.run(manifest, "sharded-next", "--processes", "2")
    assert done.code == 0, done.err
    report = world.report("sharded-next")
    assert [step["kind"] for step in report["finish"]["steps"]] == ["average"]
    found = load_file(Path(report["checkpoint"]["uri"]) / "model.safetensors")
    parts = [
        {name: tensor for file in MODELS for name, tensor in load_file(checkpoint(folder, step) / file).items()}
        for folder, step in ((world.root / "sharded-next", 36), (world.root / "sharded-next", STEPS))
    ]
    for name, tensor in found.items():
        assert torch.allclose(tensor, (parts[0][name] + parts[1][name]) / 2, atol=1e-7)
