"""Phases in a real run: exact tokens of every phase, the rate of the plan, and a kill in the middle of it all."""

from __future__ import annotations

import signal
from typing import Any

from rewarm_world import World, functions, read_until, write_lines

PHASES: list[dict[str, Any]] = [
    {"name": "main", "share": "80%"},
    {
        "name": "end",
        "share": "20%",
        "sequenceLength": 16,
        "weights": {"code": 1, "more": 3},
        "replayRatio": 0.125,
        "learningRate": {"from": 1e-3, "to": 0, "decay": "OneMinusSqrt"},
    },
]
CHANGES: dict[str, Any] = {
    "corpus__sources": [
        {"name": "code", "uri": "data/code.jsonl", "license": "PSF-2.0", "weight": 3},
        {"name": "more", "uri": "data/more.jsonl", "license": "PSF-2.0", "weight": 1},
    ],
    "phases": PHASES,
}


def steps_of(world: World, workdir: str) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in world.log(workdir) if "event" not in line}


def test_phases_train_what_they_say_and_survive_a_kill_after_the_border(world: World) -> None:
    write_lines(world.root / "data" / "more.jsonl", functions()[300:420])
    manifest = world.manifest("phases", **CHANGES)
    plan = world.rewarm("plan", manifest, "-o", "json").json
    assert world.run(manifest, "phases").code == 0
    report = world.report("phases")
    # 40 steps of 8 rows of 32 tokens: 32 steps at ratio 1/4 and weights 3:1, 8 steps at ratio 1/8 and weights 1:3.
    main = {"code": 144 * 32, "more": 48 * 32, "general": 64 * 32}
    end = {"code": 14 * 32, "more": 42 * 32, "general": 8 * 32}
    assert [(phase["name"], phase["last_step"], phase["tokens"]) for phase in report["phases"]] == [
        ("main", 32, main),
        ("end", 40, end),
    ]
    assert [phase["sources"] for phase in plan["phases"]] == [main, end]
    assert report["tokens"]["by_source"] == {name: main[name] + end[name] for name in main}
    assert "<h2>Phases</h2>" in (world.root / "phases" / "report.html").read_text()
    assert report["replay"]["requested"] == report["replay"]["realized"] == 72 / 320
    at = ",".join(str(256 * step) for step in range(1, 41))
    planned = world.rewarm("plan", manifest, "--at", at, "-o", "json").json["at"]
    trained = steps_of(world, "phases")
    assert [item["learning_rate"] for item in planned] == [trained[step]["learning_rate"] for step in range(1, 41)]
    assert [item["sources"] for item in planned] == [trained[step]["rows"] for step in range(1, 41)]
    looks = {line["step"] for line in world.log("phases") if line.get("event") == "evaluation"}
    assert {33, 34, 36} <= looks, "dense looks after the border"

    process = world.start("run", manifest, "--workdir", world.root / "phases-killed")
    read_until(process, lambda line: line.startswith("step 35/"))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert world.run(manifest, "phases-killed").code == 0
    killed = steps_of(world, "phases-killed")
    assert {step: line["loss"] for step, line in killed.items()} == {
        step: line["loss"] for step, line in trained.items()
    }
    assert world.report("phases-killed")["phases"] == report["phases"]
    name = "checkpoints/step-00000040/model.safetensors"
    assert (world.root / "phases-killed" / name).read_bytes() == (world.root / "phases" / name).read_bytes()


def test_another_phase_is_another_experiment(world: World) -> None:
    manifest = world.manifest("other-phases", phases=[{"name": "a", "share": "100%"}], budget__tokens=1024)
    assert world.run(manifest, "other-phases").code == 0
    done = world.run(manifest, "other-phases", "--set", "spec.phases[0].replayRatio=0.5")
    assert done.code == 64
    assert "spec.phases[0].replayRatio: found 0.5" in done.err
