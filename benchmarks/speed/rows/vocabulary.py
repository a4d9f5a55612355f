"""Head and loss of a large vocabulary, against a plain cross-entropy at the same compute type."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rewarm_trainer import machine
from speed.arm import TAKEN, Arm, rounds, seconds, taken
from speed.ceiling import large_product
from speed.result import Bar, Result, Table
from speed.spread import Spread, fastest, ratios

WAYS = ("plain", "plain, compiled", "chunked", "compiled")
WEIGHED = ("plain", "chunked")
"""Without a compiler, which lives in the process at first: these two tell what the step itself needs."""

PRODUCTS = 6
"""Operations for each weight of the head and token: two in each of the three products, forward and backward."""


def measure(size: str, folder: Path) -> Result:
    lines, bars, costs, notes = [], [], [], []
    bf16 = machine.find().native_bf16
    small = size == "smoke"
    hidden = 32 if small else 512
    # Several chunks of each: what a micro-batch of training has.
    for vocabulary, tokens in ((1000, 64),) if small else ((32_768, 8192), (131_072, 4096)):
        with ExitStack() as stack:
            options = {"hidden": hidden, "vocabulary": vocabulary, "tokens": tokens, "bf16": bf16}
            arms = {
                way: stack.enter_context(Arm("speed.arms.vocabulary", "Head", {"way": way, **options})) for way in WAYS
            }
            first = {way: arm.ask("run", steps=1) for way, arm in arms.items()}
            answers = rounds(arms, 2 if small else 3, "run", steps=1)
        times = {way: seconds(each) for way, each in answers.items()}
        peak = {way: max(1e-3, first[way].peak_megabytes - first[way].before_megabytes) for way in WEIGHED}
        label = f"{'bf16' if bf16 else 'fp32'}, {vocabulary:,} words, {tokens:,} tokens"
        rates = [f"{tokens / Spread.of(times[way]).median:,.0f}" for way in WAYS]
        ceiling = large_product(bf16=bf16, small=small)
        best = fastest({way: times[way] for way in WAYS[:2]})
        used = [
            PRODUCTS * hidden * vocabulary * tokens / Spread.of(times[way]).median / ceiling
            for way in (best, "compiled")
        ]
        notes.append(
            f"{label}: {best}, runs at {used[0]:.0%} of one large product; 1.5 times that would be {1.5 * used[0]:.0%}."
        )
        costs += taken(label, answers)
        lines.append((label, *rates, *(f"{each:.0%}" for each in used), *(f"{peak[way]:,.0f}" for way in WEIGHED)))
        bars.append(Bar.on(f"{label}: chunked, compiled / {best}", 1.5, ratios(times["compiled"], times[best])))
        share = Spread.of([peak["chunked"] / peak["plain"]])
        bars.append(Bar.on(f"{label}: peak memory, chunked / plain, neither compiled", 0.5, share, at_least=False))
    header = (
        "",
        *(f"{way}, tokens/s" for way in WAYS),
        "fastest plain, of one large product",
        "compiled, of it",
        *(f"{way}, peak MB" for way in WEIGHED),
    )
    title = f"Head and loss, hidden size {hidden}, {'bf16' if bf16 else 'fp32'}, forward and backward"
    tables = (Table(title, header, tuple(lines)), Table("What a step takes", TAKEN, tuple(costs)))
    return Result("vocabulary", "Large vocabulary", tables, tuple(bars), tuple(notes), size)
