"""Exactness: a run that was killed and resumed is the run that was never disturbed, bit for bit on a CPU."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from rewarm_world import Finished, World, read_until

STEPS = 40


def losses(world: World, workdir: str) -> dict[int, tuple[float, dict[str, int]]]:
    """Loss and cumulative rows of every update; of one that was recomputed, the last."""
    return {line["step"]: (line["loss"], line["rows"]) for line in world.log(workdir) if "event" not in line}


def final_weights(folder: Path) -> bytes:
    return (folder / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors").read_bytes()


def test_killed_at_a_random_moment_and_resumed_bit_for_bit(
    world: World, finished: tuple[Path, Finished], record_property: object
) -> None:
    whole, _ = finished
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"moment of the kill: random.Random({seed})")
    moment = random.Random(seed)
    manifest = world.manifest("killed")
    kills = 2
    for _ in range(kills):
        process = world.start("run", manifest, "--workdir", world.root / "killed")
        read_until(process, lambda line: line.startswith("step "))
        for _ in range(moment.randrange(0, 14)):
            read_until(process, lambda line: line.startswith("step ") or "checkpoint committed" in line)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    done = world.run(manifest, "killed")
    assert done.code == 0, done.err
    assert losses(world, "killed") == losses(world, "whole")
    assert sorted(losses(world, "whole")) == list(range(1, STEPS + 1))
    assert final_weights(world.root / "killed") == final_weights(whole)
    report = world.report("killed")
    assert [attempt["cause"] for attempt in report["attempts"]] == ["Unknown"] * kills + ["Completed"]
    assert report["tokens"]["trained"] == STEPS * 256
    assert report["sets"] == world.report("whole")["sets"]


def test_every_update_used_the_learning_rate_of_the_plan(world: World, finished: tuple[Path, Finished]) -> None:
    whole, _ = finished
    logged = {line["tokens"]: line["learning_rate"] for line in world.log("whole") if "event" not in line}
    tokens = sorted(logged)
    plan = world.rewarm("plan", whole.parent / "whole.yaml", "--at", ",".join(map(str, tokens)), "-o", "json").json
    assert [(at["tokens"], at["learning_rate"]) for at in plan["at"]] == [(t, logged[t]) for t in tokens]
    rows = {line["tokens"]: line["rows"] for line in world.log("whole") if "event" not in line}
    assert [at["sources"] for at in plan["at"]] == [rows[t] for t in tokens]


def test_ctrl_c_commits_and_exits_143_and_the_same_command_goes_on(
    world: World, finished: tuple[Path, Finished]
) -> None:
    whole, _ = finished
    manifest = world.manifest("stopped")
    process = world.start("run", manifest, "--workdir", world.root / "stopped")
    read_until(process, lambda line: line.startswith("step 7/"))
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 143, rest
    report = world.report("stopped")
    assert report["outcome"] == "Preempted"
    assert report["attempts"][-1]["cause"] == "Preempted"
    stopped_at = report["checkpoint"]["step"]
    assert 7 <= stopped_at < STEPS
    assert (world.root / "stopped" / "checkpoints" / f"step-{stopped_at:08d}" / "COMMITTED").exists()
    assert world.run(manifest, "stopped").code == 0
    report = world.report("stopped")
    assert [(a["cause"], a["first_step"], a["last_step"], a["tokens_recomputed"]) for a in report["attempts"]] == [
        ("Preempted", 1, stopped_at, 0),
        ("Completed", stopped_at + 1, STEPS, 0),
    ]
    assert final_weights(world.root / "stopped") == final_weights(whole)


def test_two_processes_stopped_and_resumed_at_one_see_the_same_rows(
    world: World, finished: tuple[Path, Finished]
) -> None:
    manifest = world.manifest("two")
    process = world.start("run", manifest, "--workdir", world.root / "two", "--processes", "2")
    read_until(process, lambda line: line.startswith("step 6/"))
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate()
    assert process.returncode == 143, rest
    assert world.run(manifest, "two").code == 0
    one, two = losses(world, "whole"), losses(world, "two")
    assert {step: rows for step, (_, rows) in two.items()} == {step: rows for step, (_, rows) in one.items()}
    # Other rows would give other losses: 1e-3 is far above rounding and far below the difference between batches.
    assert all(abs(two[step][0] - one[step][0]) < 1e-3 for step in one)
    report = world.report("two")
    assert [started["processes"] for started in world.log("two") if started.get("event") == "attempt started"] == [2, 1]
    assert any("processes was 2, is 1" in warning for warning in report["warnings"])


def test_workers_die_with_their_launcher(world: World) -> None:
    manifest = world.manifest("orphans")
    process = world.start("run", manifest, "--workdir", world.root / "orphans", "--processes", "2")
    read_until(process, lambda line: line.startswith("step 2/"))
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 2
    ended = [os.pidfd_open(pid) for pid in children]
    process.kill()
    process.wait()
    import select

    for descriptor in ended:
        readable, _, _ = select.select([descriptor], [], [], 20)
        assert readable, "a worker outlived its launcher"
        os.close(descriptor)
    # The folder is free again: nobody holds its lock.
    done = world.run(manifest, "orphans", "--set", "spec.training.seed=4")
    assert done.code == 64
    assert "spec.training.seed: found 4, expected 3" in done.err


def test_a_second_writer_is_refused(world: World) -> None:
    manifest = world.manifest("locked")
    process = world.start("run", manifest, "--workdir", world.root / "locked")
    read_until(process, lambda line: line.startswith("step 1/"))
    second = world.run(manifest, "locked")
    assert second.code == 75
    assert "another process is writing this work folder" in second.err
    process.kill()
    process.wait()


def test_a_finished_run_is_found_finished(world: World, finished: tuple[Path, Finished]) -> None:
    whole, done = finished
    assert done.out.splitlines()[-1] == str(whole / "report.json")
    before = (whole / "report.json").read_bytes()
    again = world.run(world.root / "whole.yaml", "whole", "-o", "json")
    assert (again.code, again.json) == (0, json.loads(before))
    assert (whole / "report.json").read_bytes() == before


def test_resumed_with_other_switches_rows_are_the_same_and_the_difference_is_said(
    world: World, finished: tuple[Path, Finished]
) -> None:
    other = {"REWARM_PLAIN_ATTENTION": "on", "REWARM_READ_AHEAD": "off", "REWARM_KEEP_FREED_MEMORY": "off"}
    manifest = world.manifest("switched")
    process = world.start("run", manifest, "--workdir", world.root / "switched", **other)
    read_until(process, lambda line: "checkpoint committed" in line)
    process.kill()
    process.wait()
    done = world.run(manifest, "switched")
    assert done.code == 0, done.err
    said = "resumed in another environment: attention was eager, is sdpa; rows are the same"
    assert said in done.err
    rows = {step: rows for step, (_, rows) in losses(world, "switched").items()}
    assert rows == {step: rows for step, (_, rows) in losses(world, "whole").items()}
    assert world.report("switched")["environment"]["attention"] == "sdpa"


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="compiling needs a C++ compiler")
def test_a_compiled_bf16_run_resumes_bit_for_bit_too(world: World) -> None:
    manifest = world.manifest("compiled", training__precision="BF16", budget__tokens=5120)
    options = {"REWARM_COMPILE": "on"}
    assert world.run(manifest, "compiled", **options).code == 0
    process = world.start("run", manifest, "--workdir", world.root / "compiled-killed", **options)
    read_until(process, lambda line: line.startswith("step 11/"))
    process.kill()
    process.wait()
    done = world.run(manifest, "compiled-killed", **options)
    assert done.code == 0, done.err
    assert losses(world, "compiled-killed") == losses(world, "compiled")
    assert world.report("compiled-killed")["environment"]["compiled"] is True
