"""Peak resident memory beside a bare loop with the same techniques, and whether it grows."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rewarm_trainer import machine
from speed.arm import Arm
from speed.result import Bar, Result, Table
from speed.rows.step import LARGE, TINY
from speed.spread import Spread


def measure(size: str, folder: Path) -> Result:
    small, bf16 = size == "smoke", machine.find().native_bf16
    precision = "bf16" if bf16 else "fp32"
    work = {**(TINY if small else LARGE), "length": 32 if small else 1024, "rows": 4}
    options = {"work": work, "bf16": bf16, "compiled": not small}
    peaks, parameters = {}, 0
    for name, kind in (("rewarm", "Rewarm"), ("bare loop", "Bare")):
        with Arm("speed.arms.training", kind, options) as arm:
            # Compiling has a peak of its own, in both alike; what training needs is counted after it.
            arm.ask("run", steps=1)
            peaks[name] = [arm.ask("run", steps=1).peak_megabytes for _ in range(3)]
            parameters = arm.facts.get("parameters", parameters)
    with ExitStack() as stack:
        tiny = {"work": {**TINY, "length": 32, "rows": 2}, "bf16": bf16, "compiled": False}
        arm = stack.enter_context(Arm("speed.arms.training", "Rewarm", tiny))
        first, more = (10, 90) if small else (1000, 9000)
        arm.ask("run", steps=first)
        early = arm.ask("run", steps=1).peak_megabytes
        arm.ask("run", steps=more)
        late = arm.ask("run", steps=1).peak_megabytes
    ratio = Spread.of([own / other for own, other in zip(peaks["rewarm"], peaks["bare loop"], strict=True)])
    lines = tuple((name, Spread.of(each).words(0)) for name, each in peaks.items())
    title = f"{parameters / 1e6:.1f}M parameters, {work['rows']} x {work['length']:,}, {precision}: peak resident MB"
    bars = (
        Bar.on("peak resident, rewarm / bare loop", 1.1, ratio, at_least=False),
        Bar.on(
            f"updates alone, a model {TINY['hidden']} wide: growth from step {first:,} to {first + more:,}",
            0.01,
            Spread.of([late / early - 1]),
            unit="of it",
            at_least=False,
        ),
    )
    return Result("memory", "Memory", (Table(title, ("", "MB"), lines),), bars, (), size)
