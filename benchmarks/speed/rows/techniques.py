"""Each technique that is on here, left out of the same training step; and from when on compiling has paid."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewarm_trainer import machine
from rewarm_trainer.techniques import COMPILE_WORTH_FLOPS
from speed import flops
from speed.arm import Arm, cpu, rounds, seconds
from speed.result import Bar, Result, Table
from speed.rows.step import SMALL, TINY
from speed.spread import Spread, ratios
from speed.work import Work

ALL = "all that is on"
NO_HARM = 0.97
"""What may be lost by a technique that is on: nothing but what two rounds differ by."""


@dataclass(frozen=True)
class Without:
    """One technique left out: options of the arm, and whether libgomp spins as it does by itself."""

    options: dict[str, Any] = field(default_factory=dict)
    spinning: bool = False


def left_out(native_bf16: bool) -> dict[str, Without]:
    """Of a small vocabulary. What only BF16 has is not there where the processor lacks it."""
    found = {
        ALL: Without(),
        "blocks not compiled": Without({"compiled": False}),
        "freed memory given back": Without({"without": "freed_memory"}),
        "batches read when asked for": Without({"without": "read_ahead"}),
        "threads that spin as libgomp has it": Without(spinning=True),
    }
    if native_bf16:
        found["FP32 compute"] = Without({"bf16": False})
        found["SDPA instead of plain attention"] = Without({"without": "plain_attention"})
    return found


QUICKSTART = {"hidden": 128, "layers": 4, "vocabulary": 2048, "length": 256, "rows": 32}
"""The model of `make quickstart`: so small that most of a step is not in its products."""
BLOCKS = {ALL: Without(), "blocks not compiled": Without({"compiled": False})}
LOGITS = {ALL: Without({"chunked": True}), "logits whole": Without({"chunked": False})}


def measure_case(
    work: dict[str, int], variants: dict[str, Without], size: str, cache: str
) -> tuple[list[tuple[str, ...]], list[Bar], str]:
    """Lines of the table, bars, and what compiling cost, of one model. `cache`: an empty folder for the compiler."""
    count, steps = (1, 1) if size == "smoke" else (5, 2)
    bf16 = machine.find().native_bf16
    shape = Work(**work)
    label = f"{shape.parameters / 1e6:.1f}M, vocabulary of {shape.vocabulary:,}"
    with ExitStack() as stack:
        arms = {
            name: stack.enter_context(
                Arm(
                    "speed.arms.training",
                    "Rewarm",
                    {"work": work, "bf16": bf16, "compiled": True, **each.options},
                    spinning=each.spinning,
                    environment={"TORCHINDUCTOR_CACHE_DIR": cache},
                )
            )
            for name, each in variants.items()
        }
        first = {name: arm.ask("run", steps=1).seconds for name, arm in arms.items()}
        answers = rounds(arms, count, "run", first={"steps": 1}, steps=steps)
    times = {name: seconds(each) for name, each in answers.items()}
    lines, bars = [], []
    for name, each in times.items():
        gain = ratios(times[ALL], each)
        spent = Spread.of(cpu(answers[name])).median / steps
        lines.append((label, name, f"{Spread.of(each).median / steps:.3f}", f"{spent:.3f}", gain.words()))
        if name != ALL:
            bars.append(Bar.on(f"{label}: time of a step, {name} / {ALL}", NO_HARM, gain))
    return lines, bars, paid(shape, first, times, steps, "BF16" if bf16 else "FP32")


def paid(shape: Work, first: dict[str, float], times: dict[str, list[float]], steps: int, precision: str) -> str:
    """From how many operations on compiling has paid, from an empty cache; empty where every arm compiles."""
    eager = times.get("blocks not compiled")
    if eager is None:
        return ""
    own, other = Spread.of(times[ALL]).median / steps, Spread.of(eager).median / steps
    took = first[ALL] - own
    model = f"{shape.parameters / 1e6:.1f}M parameters"
    if other <= own:
        return f"{model}: compiling took {took:.0f} s and gave nothing back here."
    needed = took / (other - own)
    operations = needed * shape.tokens * flops.per_token(shape.parameters, shape.layers, shape.hidden, shape.length)
    return (
        f"{model}: compiling from an empty cache took {took:.0f} s and gives back {other - own:.2f} s a step of "
        f"{shape.tokens:,} tokens: paid after {needed:,.0f} steps, {operations:.1e} operations. `auto` compiles from "
        f"{COMPILE_WORTH_FLOPS[precision]:.0e} on."
    )


def measure(size: str, folder: Path) -> Result:
    small = size == "smoke"
    usual = {**TINY, "length": 32, "rows": 2} if small else {**SMALL, "length": 256, "rows": 8}
    large = {**usual, "vocabulary": 1000 if small else 32_768}
    lines, bars, notes = [], [], []
    cases = [(usual, left_out(machine.find().native_bf16)), (large, LOGITS)]
    if not small:
        cases.append((QUICKSTART, BLOCKS))
    for work, variants in cases:
        with tempfile.TemporaryDirectory(prefix="rewarm-speed-", ignore_cleanup_errors=True) as cache:
            own, said, note = measure_case(work, variants, size, cache)
        lines += own
        # Whether so small a model is compiled is for its length to say: no bar.
        bars += said if variants is not BLOCKS else []
        notes += [note] if note else []
    notes.append("Fused AdamW and a step's numbers read in the next cannot be left out: the update is built on them.")
    header = ("model", "", "seconds a step", "CPU-seconds a step", f"times that of {ALL}")
    table = Table(
        "Steps of 2,048 tokens (of the smallest 8,192), T = 256" if not small else "A rehearsal", header, tuple(lines)
    )
    return Result("techniques", "Techniques, each left out", (table,), tuple(bars), tuple(notes), size)
