"""Corpus preparation beside the tokenizer library's own batch speed, at growing sizes."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from speed import texts
from speed.arm import TAKEN, Arm, seconds, taken
from speed.result import Bar, Result, Table
from speed.spread import Spread, ratios


def measure(size: str, folder: Path) -> Result:
    small = size == "smoke"
    lines, bars, costs = [], [], []
    peaks: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="rewarm-speed-") as place:
        for times in (1, 4, 16):
            text = Path(place) / f"text-{times}"
            written = texts.write(text, times * (0.1 if small else 3.0))
            options = {"text": str(text), "tokenizer": f"{place}/tokenizer", "vocabulary": 512 if small else 8192}
            with ExitStack() as stack:
                ours, library = (
                    stack.enter_context(Arm("speed.arms.preparing", "Preparing", options)) for _ in range(2)
                )
                library.ask("load")
                # Weighed apart: looking takes time.
                peaks[times] = ours.ask("prepare_and_weigh").value
                own, other = [], []
                for _ in range(2 if small else 3):
                    own.append(ours.ask("prepare"))
                    other.append(library.ask("encode"))
            rates = [f"{written / 1e6 / Spread.of(seconds(each)).median:,.2f}" for each in (own, other)]
            lines.append((f"{written / 1e6:,.1f} MB", *rates, f"{peaks[times]:,.0f}"))
            costs += taken(f"{written / 1e6:,.1f} MB", {"prepared": own, "tokenizer library alone": other})
            what = f"{written / 1e6:,.0f} MB: prepared / tokenizer library alone"
            bars.append(Bar.on(what, 1.0, ratios(seconds(own), seconds(other))))
    grown = Spread.of([peaks[16] / peaks[4] - 1])
    bars.append(Bar.on("memory from 4x to 16x the data", 0.1, grown, unit="more", at_least=False))
    header = ("text", "prepared MB/s", "library alone MB/s", "peak MB of all processes")
    tables = (Table("All cores", header, tuple(lines)), Table("What it takes", TAKEN, tuple(costs)))
    return Result("preparation", "Corpus preparation", tables, tuple(bars), (), size)
