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

LARGE = {"hidden": 2048, "layers": 20, "vocabulary": 32768, "length": 4096}
VARIANTS: dict[str, dict[str, Any]] = {
    "all": {"compiled": True, "chunked": True},
    "not compiled": {"compiled": False, "chunked": True},
    "logits whole": {"compiled": True, "chunked": False},
}
MODULE = "speed.arms.gpu"


def batch_rows(sizes: dict[str, int], small: bool) -> int:
    """Rows of a micro-batch at the memory's limit, from what one and two rows use."""
    if small:
        return 2
    used, free = [], 0
    for rows in (1, 2):
        with Arm(MODULE, "Gpu", {"work": {**sizes, "rows": rows}, "micro_rows": rows, **VARIANTS["all"]}) as arm:
            used.append(int(arm.ask("run", steps=2).value["peak_bytes"]))
            free = int(arm.ask("free").value)
    return flops.rows_that_fit(free, *used)


def measure(size: str, folder: Path) -> Result:
    small = size == "smoke"
    what = "model flop utilisation, 1B class, sequence 4,096, bf16, of the maker's peak"
    waits = "updates off log steps that never wait for the device, of those tried"
    if not small and shutil.which("nvidia-smi") is None:
        bars = (
            Bar.missing(what, 0.46, "no GPU on this machine; `benchmarks/speed/gpu.sh` measures it on one", unit=""),
            Bar.missing(waits, 1.0, "no GPU on this machine", unit=""),
        )
        return Result("gpu", "One GPU", (), bars, (), size)
    sizes = {**TINY, "length": 32} if small else LARGE
    rows = batch_rows(sizes, small)
    work = {**sizes, "rows": rows}
    lines, notes, best, device, ceiling, passed = [], [], None, "", 0.0, 0
    steps, count = (1, 2) if small else (3, 4)
    tried = 2 if small else 20
    for name, options in VARIANTS.items():
        try:
            with Arm(MODULE, "Gpu", {"work": work, "micro_rows": rows, **options}) as arm:
                arm.ask("run", steps=2)
                times = seconds(rounds({name: arm}, count, "run", steps=steps)[name])
                rate = Spread.of([steps * rows * sizes["length"] / each for each in times])
                lines.append((name, rate.words(0)))
                if name == "all":
                    best, device = rate, arm.facts["device"]
                    parameters = int(arm.facts["parameters"])
                    ceiling = float(arm.ask("ceiling", size=256 if small else 8192).value)
                    passed = int(arm.ask("without_sync", steps=tried).value)
        except ArmError as error:
            notes.append(f"{name}: {error}.")
    bars = []
    if best is not None:
        shape = Work(**work)
        operations = flops.per_token(parameters, shape.layers, shape.hidden, shape.length)
        peak = flops.stated_peak(device)
        share = flops.utilisation(best.median, operations, peak) if peak else None
        bars.append(
            Bar.on(what, 0.46, Spread.of([share]), unit="")
            if share is not None
            else Bar.missing(what, 0.46, f"no stated peak is listed for {device}", unit="")
        )
        of_measured = flops.utilisation(best.median, operations, ceiling)
        notes.append(
            f"{device}: a BF16 product runs at {ceiling / 1e12:,.0f} Tflop/s; training uses {of_measured:.0%} of it."
        )
    else:
        bars.append(Bar.missing(what, 0.46, "the arm with all techniques did not run", unit=""))
    bars.append(Bar.on(waits, 1.0, Spread.of([passed / tried]), unit=""))
    title = f"Tokens per second, {rows} rows of {sizes['length']:,} a step, bf16"
    return Result(
        "gpu",
        "One GPU",
        (Table(title, ("techniques", "tokens per second"), tuple(lines)),),
        tuple(bars),
        tuple(notes),
        size,
    )
