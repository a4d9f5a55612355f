"""One GPU: utilisation against the maker's number and a measured product, each technique's own gain, no host sync."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from speed import flops
from speed.arm import Arm, ArmError, rounds, seconds
from speed.result import Bar, Result, Table
from speed.rows.step import TINY
from speed.spread import Spread
from speed.work import Work

LARGE = {"hidden": 2048, "layers": 20, "vocabulary": 32768, "length": 4096, "head": 128}
VARIANTS: dict[str, dict[str, Any]] = {
    "all": {"compiled": True, "chunked": True},
    "not compiled": {"compiled": False, "chunked": True},
    "logits whole": {"compiled": True, "chunked": False},
}
MODULE = "speed.arms.gpu"
WHAT = "model flop utilisation, 1B class, sequence 4,096, bf16, of the maker's peak"
WAITS = "updates off log steps that never wait for the device, of those tried"


def options_of(variant: str, work: dict[str, int], small: bool) -> dict[str, Any]:
    """Of an arm; a rehearsal compiles nothing."""
    chosen = VARIANTS[variant]
    return {"work": work, "micro_rows": work["rows"], **chosen, "compiled": chosen["compiled"] and not small}


def batch_rows(sizes: dict[str, int], small: bool) -> int:
    """Rows of a micro-batch at the memory's limit, from what one and two rows use."""
    if small:
        return 2
    used, free = [], 0
    for rows in (1, 2):
        with Arm(MODULE, "Gpu", options_of("all", {**sizes, "rows": rows}, small)) as arm:
            used.append(int(arm.ask("run", steps=2).value["peak_bytes"]))
            free = int(arm.ask("free").value)
    return flops.rows_that_fit(free, *used)


def at_the_limit(work: dict[str, int], small: bool) -> tuple[list[Bar], list[str]]:
    """Bars of the product with all techniques, at as many rows as the memory holds."""
    steps, count, tried = (1, 2, 2) if small else (3, 4, 20)
    with Arm(MODULE, "Gpu", options_of("all", work, small)) as arm:
        arm.ask("run", steps=2)
        times = seconds(rounds({"all": arm}, count, "run", steps=steps)["all"])
        device, parameters = arm.facts["device"], int(arm.facts["parameters"])
        ceiling = float(arm.ask("ceiling", size=256 if small else 8192).value)
        try:
            passed, notes = int(arm.ask("without_sync", steps=tried).value), []
        except ArmError as error:
            passed, notes = 0, [f"An update waited for the device: {error}."]
    shape = Work(**work)
    rate = Spread.of([steps * shape.tokens / each for each in times])
    operations = flops.per_token(parameters, shape.layers, shape.hidden, shape.length)
    peak = flops.stated_peak(device)
    share = Spread.of([flops.utilisation(rate.median, operations, peak)]) if peak else None
    of_measured = flops.utilisation(rate.median, operations, ceiling)
    notes += [
        f"{rate.words(0)} tokens per second at {shape.rows} rows, as many as the memory holds.",
        f"{device}: a BF16 product runs at {ceiling / 1e12:,.2f} Tflop/s; training uses {of_measured:.0%} of it.",
    ]
    bars = [
        Bar.missing(WHAT, 0.46, f"no stated peak is listed for {device}", unit="")
        if share is None
        else Bar.on(WHAT, 0.46, share, unit=""),
        Bar.on(WAITS, 1.0, Spread.of([passed / tried]), unit=""),
    ]
    return bars, notes


def at_rows_that_run(sizes: dict[str, int], rows: int, small: bool) -> tuple[int, list[Bar], list[str]]:
    """`at_the_limit` at `rows`, or at fewer where that many do not run after all. ArmError when one row does not."""
    said: list[str] = []
    while True:
        try:
            bars, notes = at_the_limit({**sizes, "rows": rows}, small)
            return rows, bars, said + notes
        except ArmError as error:
            if rows == 1:
                raise
            said.append(f"{rows} rows do not run: {error}.")
            rows = max(1, rows * 3 // 4)


def gains(work: dict[str, int], small: bool) -> tuple[Table, list[str]]:
    """Each technique left out, at rows that fit without it."""
    steps, count = (1, 2) if small else (3, 4)
    tokens, lines, notes = steps * Work(**work).tokens, [], []
    for name in VARIANTS:
        try:
            with Arm(MODULE, "Gpu", options_of(name, work, small)) as arm:
                arm.ask("run", steps=2)
                times = seconds(rounds({name: arm}, count, "run", steps=steps)[name])
            lines.append((name, Spread.of([tokens / each for each in times]).words(0)))
        except ArmError as error:
            notes.append(f"{name}: {error}.")
    title = f"Tokens per second, {work['rows']} rows of {work['length']:,} a step, bf16"
    return Table(title, ("techniques", "tokens per second"), tuple(lines)), notes


def measure(size: str, folder: Path) -> Result:
    small = size == "smoke"
    if not small and shutil.which("nvidia-smi") is None:
        here = "no GPU on this machine; `benchmarks/speed/gpu.sh` measures it on one"
        missing = (Bar.missing(WHAT, 0.46, here, unit=""), Bar.missing(WAITS, 1.0, here, unit=""))
        return Result("gpu", "One GPU", (), missing, (), size)
    sizes = {**TINY, "length": 32} if small else LARGE
    rows = batch_rows(sizes, small)
    rows, bars, notes = at_rows_that_run(sizes, rows, small)
    # Whole logits and their gradients take memory of their own: a quarter of the rows fits without any technique.
    table, said = gains({**sizes, "rows": max(1, rows // 4)}, small)
    return Result("gpu", "One GPU", (table,), tuple(bars), (*notes, *said), size)
