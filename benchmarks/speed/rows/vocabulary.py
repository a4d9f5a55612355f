"""Head and loss of a large vocabulary, against a plain cross-entropy at the same compute type."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from speed.arm import Arm, rounds, seconds
from speed.result import Bar, Result, Table
from speed.spread import Spread, ratios

WAYS = ("plain", "chunked", "compiled")


def measure(size: str, folder: Path) -> Result:
    lines, bars = [], []
    hidden, tokens = (32, 64) if size == "smoke" else (512, 1024)
    for vocabulary in (1000,) if size == "smoke" else (32_768, 131_072):
        with ExitStack() as stack:
            options = {"hidden": hidden, "vocabulary": vocabulary, "tokens": tokens}
            arms = {
                way: stack.enter_context(Arm("speed.arms.vocabulary", "Head", {"way": way, **options})) for way in WAYS
            }
            # A compiler lives in the process at first: the two that have none tell what the step itself needs.
            first = {way: arm.ask("run", steps=1) for way, arm in arms.items()}
            answers = rounds(arms, 2 if size == "smoke" else 5, "run", steps=1 if size == "smoke" else 2)
        times = {way: seconds(each) for way, each in answers.items()}
        peak = {way: max(1e-3, first[way].peak_megabytes - first[way].before_megabytes) for way in WAYS[:2]}
        label = f"{vocabulary:,} tokens of vocabulary"
        rates = [f"{tokens * (1 if size == 'smoke' else 2) / Spread.of(times[way]).median:,.0f}" for way in WAYS]
        lines.append((label, *rates, *(f"{peak[way]:,.0f}" for way in WAYS[:2])))
        bars.append(Bar.on(f"{label}: chunked, compiled / plain", 1.5, ratios(times["compiled"], times["plain"])))
        share = Spread.of([peak["chunked"] / peak["plain"]])
        bars.append(Bar.on(f"{label}: peak memory, chunked / plain", 0.5, share, at_least=False))
    header = ("", "plain tokens/s", "chunked", "chunked, compiled", "plain peak MB", "chunked peak MB")
    title = f"Head and loss, {tokens:,} tokens, hidden size {hidden}, bf16, forward and backward"
    return Result("vocabulary", "Large vocabulary", (Table(title, header, tuple(lines)),), tuple(bars), (), size)
