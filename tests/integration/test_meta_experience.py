"""Meta-experience replay in real runs: killed inside a period, and under two processes."""

from __future__ import annotations

import signal
from typing import Any

from rewarm_world import World, read_until

CHANGES: dict[str, Any] = {
    "replay__method": "MetaExperienceReplay",
    "replay__metaExperience": {"interval": 7, "epsilon": 0.5},
}
STEPS = 40


def losses(world: World, workdir: str) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in world.log(workdir) if "event" not in line}


def test_killed_inside_a_period_and_under_two_processes(world: World) -> None:
    manifest = world.manifest("meta", **CHANGES)
    assert world.run(manifest, "meta").code == 0
    process = world.start("run", manifest, "--workdir", world.root / "meta-killed")
    read_until(process, lambda line: line.startswith("step 17/"))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert world.run(manifest, "meta-killed").code == 0
    assert losses(world, "meta-killed") == losses(world, "meta")
    for name in ("model", "optimizer", "anchor"):
        path = f"checkpoints/step-{STEPS:08d}/{name}.safetensors"
        assert (world.root / "meta-killed" / path).read_bytes() == (world.root / "meta" / path).read_bytes(), name
    checkpoints = world.rewarm("checkpoints", world.root / "meta", "--verify", "-o", "json").json
    assert {entry["verified"] for entry in checkpoints} == {True}

    assert world.run(manifest, "meta-two", "--processes", "2").code == 0
    one, two = losses(world, "meta"), losses(world, "meta-two")
    assert one.keys() == two.keys()
    # A rank that took no Reptile step would be far off after the first period: weights go half the way back.
    assert all(abs(two[step] - one[step]) < 1e-3 for step in one)
