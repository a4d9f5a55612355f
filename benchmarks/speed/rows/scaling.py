"""Two processes against one on the same cores and the same work: efficiency, and the order of the data."""

from __future__ import annotations

import tempfile
from pathlib import Path

from speed import product_runs
from speed.result import Bar, Result, Table
from speed.rows.step import SMALL, TINY
from speed.spread import Spread
from speed.work import Work


def measure(size: str, folder: Path) -> Result:
    small = size == "smoke"
    work = Work(**(TINY if small else SMALL), length=32 if small else 256, rows=8)
    steps, count = (6, 1) if small else (30, 2)
    evaluation = {"evaluation": {"every": "100%", "lookTokens": 1000, "heldOut": {"maximumTokens": 20_000}}}
    rates: dict[int, list[float]] = {1: [], 2: []}
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="rewarm-speed-") as place:
        path = product_runs.manifest(Path(place), work, steps, evaluation)
        for number in range(count):
            losses: dict[int, list[float]] = {}
            for processes in (1, 2):
                workdir = Path(place) / f"run-{processes}-{number}"
                extra = {"REWARM_COMPILE": "off"}
                done = product_runs.run(path, workdir, ["--processes", str(processes)], extra)
                rates[processes].append(done.report["throughput"]["tokens_per_second"])
                losses[processes] = [record["loss"] for record in done.steps]
            worst = max(worst, *(abs(one - two) for one, two in zip(losses[1], losses[2], strict=True)))
    efficiency = Spread.of([two / one for one, two in zip(rates[1], rates[2], strict=True)])
    lines = tuple((f"{processes}", Spread.of(each).words(0)) for processes, each in rates.items())
    # Other rows in any one step would show: losses of neighbouring batches differ by tenths.
    what = f"same data in the same order: the losses of {steps} steps differ by at most"
    bars = (Bar.on(what, 1e-2, Spread.of([worst]), unit="nats", at_least=False),)
    notes = (f"Efficiency of two processes on the same cores: {efficiency.words()}.",)
    table = Table(f"{work.tokens:,} tokens a step, {steps} steps, eager", ("processes", "tokens per second"), lines)
    return Result("scaling", "Scaling", (table,), bars, notes, size)
