"""How long a checkpoint stops the training thread, and what it writes."""

from __future__ import annotations

from pathlib import Path

from rewarm_trainer import machine
from speed.arm import Arm
from speed.result import Bar, Result, Table
from speed.rows.step import LARGE, TINY
from speed.spread import Spread

BESIDE = 4
"""Steps that run while the writer does: it takes about as long as three."""


def measure(size: str, folder: Path) -> Result:
    small, bf16 = size == "smoke", machine.find().native_bf16
    precision = "bf16" if bf16 else "fp32"
    work = {**(TINY if small else LARGE), "length": 32 if small else 256, "rows": 2 if small else 8}
    steps, stalls, slowed, written = [], [], [], []
    with Arm("speed.arms.checkpointing", "Committing", {"work": work, "bf16": bf16, "compiled": not small}) as arm:
        arm.ask("run", steps=3)
        for _ in range(2 if small else 5):
            steps.append(arm.ask("run", steps=1).seconds)
            stalls.append(arm.ask("commit").seconds)
            slowed.append(arm.ask("run", steps=BESIDE).seconds - BESIDE * steps[-1])
            written.append(arm.ask("written").value)
        parameters = arm.facts["parameters"]
    stalled = Spread.of([stall / step for stall, step in zip(stalls, steps, strict=True)])
    excess = Spread.of([each["bytes"] / each["state"] - 1 for each in written])
    lines = (
        ("step", Spread.of(steps).words(3)),
        ("the training thread stops for", Spread.of(stalls).words(3)),
        (f"the {BESIDE} steps after it take longer by", Spread.of(slowed).words(3)),
        ("written beside them in", Spread.of([each["seconds"] for each in written]).words(3)),
    )
    tokens = work["length"] * work["rows"]
    table = Table(
        f"{parameters / 1e6:.1f}M parameters, {tokens:,} tokens a step, {precision}: seconds",
        ("", "seconds"),
        lines,
    )
    bars = (
        Bar.on("stall of the training thread in steps", 1.0, stalled, unit="steps", at_least=False),
        Bar.on("bytes written beyond the state's size", 0.03, excess, unit="of it", at_least=False),
    )
    return Result("checkpoint", "Checkpoint", (table,), bars, (), size)
