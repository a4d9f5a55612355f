"""A whole run with looks, checkpoints, tracking and metrics: what is outside the training step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from speed import product_runs
from speed.arm import Arm
from speed.result import Bar, Result, Table
from speed.rows.step import SMALL, TINY
from speed.spread import Spread
from speed.work import Work

LOOKS, CHECKPOINTS, LOOK_TOKENS = 20, 10, 50_000


def measure(size: str, folder: Path) -> Result:
    small = size == "smoke"
    work = Work(**(TINY if small else SMALL), length=32 if small else 256, rows=1)
    steps, look_tokens = (100, 500) if small else (2000, LOOK_TOKENS)
    total = steps * work.tokens
    # A look is at 50K tokens of the two sets together.
    spec = {
        "evaluation": {"every": total // LOOKS, "lookTokens": look_tokens // 2},
        "checkpoints": {"every": total // CHECKPOINTS},
    }
    with tempfile.TemporaryDirectory(prefix="rewarm-speed-") as place:
        spec["tracking"] = {"uri": f"sqlite:///{place}/mlflow.db"}
        path = product_runs.manifest(Path(place), work, steps, spec)
        done = product_runs.run(path, Path(place) / "run", ["--metrics-port", "0"])
        options = {
            "workdir": str(Path(place) / "run"),
            "cache": str(product_runs.cache_of(path)),
            "length": work.length,
            "look_tokens": look_tokens // 2,
        }
        with Arm("speed.arms.forward", "Forward", options) as arm:
            arm.ask("look")
            forward = Spread.of([arm.ask("look").value for _ in range(2 if small else 5)])
    looks = [record for record in done.log if record.get("event") == "evaluation"]
    commits = [record for record in done.log if record.get("event") == "checkpoint committed"]
    between = [record for record in looks if record["step"] and not record["full"]]
    baseline = next(record["time"] for record in looks if not record["step"])
    # From the end of the baseline to the beginning of the final look: the part that grows with the run.
    last = next(record for record in looks if record["step"] == steps)
    wall = last["time"] - last["seconds"] - baseline
    train = done.report["throughput"]["seconds"]["train"]

    def outside(of_a_pass: float) -> float:
        return wall - train - of_a_pass * len(between)

    # The passes were measured apart, at another minute of the machine: their spread is the share's.
    share = Spread(*(outside(each) / wall for each in (forward.median, forward.high, forward.low)))
    lines = (
        ("wall time from the first step to the last", f"{wall:,.1f}"),
        ("inside training steps", f"{train:,.1f}"),
        (
            f"forward passes of {len(between)} looks (measured apart, each {forward.words(3)})",
            f"{forward.median * len(between):,.1f}",
        ),
        ("those looks by the run's own clock", f"{sum(record['seconds'] for record in between):,.1f}"),
        ("outside steps and forward passes", f"{outside(forward.median):,.1f}"),
        (
            f"the training thread stopped for {len(commits)} checkpoints",
            f"{sum(c['stalled_seconds'] for c in commits):,.2f}",
        ),
    )
    title = f"{work.parameters / 1e6:.1f}M parameters, {steps:,} steps of {work.tokens} tokens: seconds"
    bar = Bar.on(
        "time outside steps beyond the looks' forward passes", 0.05, share, unit="of the wall time", at_least=False
    )
    note = "More looks than every 50K tokens ask for: they are denser early."
    return Result("end-to-end", "End to end", (Table(title, ("", "seconds"), lines),), (bar,), (note,), size)
