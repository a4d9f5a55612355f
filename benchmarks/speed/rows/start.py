"""From the command to the first step on a prepared folder, beside the imports alone; and `--help`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speed import product_runs
from speed.result import Bar, Result, Table
from speed.rows.step import TINY
from speed.spread import Spread
from speed.work import Work


def timed(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env=product_runs.environment())
    return time.monotonic() - began


def measure(size: str, folder: Path) -> Result:
    count = 1 if size == "smoke" else 5
    found: dict[str, list[float]] = {"first step": [], "model": [], "imports": [], "help": []}
    with tempfile.TemporaryDirectory(prefix="rewarm-speed-") as place:
        path = product_runs.manifest(Path(place), Work(**TINY, length=32, rows=4), 4)
        # Nothing is compiled. The model is small: its load is that of its code, which the run times itself.
        extra = {"REWARM_COMPILE": "off"}
        product_runs.run(path, Path(place) / "prepares", extra=extra)
        for number in range(count):
            done = product_runs.run(path, Path(place) / f"run-{number}", extra=extra)
            found["first step"].append(done.first_step_seconds)
            found["imports"].append(timed([sys.executable, "-c", "import torch, transformers"]))
            found["model"].append(done.model_seconds)
            found["help"].append(timed([sys.executable, "-m", "rewarm_cli", "--help"]))
    rounds = list(zip(found["first step"], found["model"], found["imports"], strict=True))
    ratio = Spread.of([(own - model) / imports for own, model, imports in rounds])
    whole = Spread.of([own / imports for own, _, imports in rounds])
    names = {
        "first step": "`rewarm run` on a prepared corpus, until its first step is logged",
        "imports": "`import torch, transformers`",
        "model": "of it, by its own clock: load of the model and of its code",
        "help": "`rewarm --help`",
    }
    table = Table(
        "Seconds", ("", "seconds"), tuple((names[name], Spread.of(each).words()) for name, each in found.items())
    )
    bars = (
        Bar.on("first step, load of the model and its code apart / imports alone", 1.5, ratio, at_least=False),
        Bar.on("`rewarm --help`", 0.5, Spread.of(found["help"]), unit="s", at_least=False),
    )
    note = f"With the load of the model: {whole.words()} times the imports alone."
    return Result("start", "Start-up", (table,), bars, (note,), size)
