"""Scoring held-out documents, against lm-eval's own log-likelihoods of the same ones."""

from __future__ import annotations

import importlib.metadata
from contextlib import ExitStack
from pathlib import Path

from rewarm_trainer import machine
from speed import flops
from speed.arm import TAKEN, Arm, rounds, seconds, taken
from speed.ceiling import large_product
from speed.profiling import SPENT, most, spent_line
from speed.result import Bar, Result, Table
from speed.rows.step import NO_BF16, SMALL, TINY
from speed.spread import Spread, ratios
from speed.work import Work


def measure(size: str, folder: Path) -> Result:
    small = size == "smoke"
    work = {**(TINY if small else SMALL), "length": 64 if small else 512, "rows": 1}
    count = 16 if small else 200
    lines, bars, notes, costs, profile = [], [], [], [], []
    for bf16 in (True, False):
        if bf16 and not small and not machine.find().native_bf16:
            bars.append(Bar.missing("bf16: rewarm / lm-eval", 1.5, NO_BF16))
            continue
        options = {"work": work, "count": count, "bf16": bf16}
        with ExitStack() as stack:
            arms = {
                name: stack.enter_context(Arm("speed.arms.evaluating", kind, options, spinning=name != "rewarm"))
                for name, kind in (("rewarm", "Rewarm"), ("lm-eval", "LmEval"))
            }
            rounds(arms, 1, "score")
            answers = rounds(arms, 2 if small else 4, "score")
            spent = {name: arm.ask("profile", doing="score").value for name, arm in arms.items()}
            tokens = arms["rewarm"].facts["tokens"]
        label = "bf16" if bf16 else "fp32"
        profile += [(label, name, *spent_line(each)) for name, each in spent.items()]
        times = {name: seconds(each) for name, each in answers.items()}
        nats = {name: each[0].value for name, each in answers.items()}
        ceiling = large_product(bf16=bf16, small=small)
        operations = tokens * flops.forward(Work(**work).parameters, work["layers"], work["hidden"], tokens // count)
        used = [f"{operations / Spread.of(times[name]).median / ceiling:.0%}" for name in times]
        lines.append((label, f"{ceiling / 1e9:,.0f}", *used, *(f"{n:,.1f}" for n in nats.values())))
        costs += taken(label, answers)
        bars.append(Bar.on(f"{label}: rewarm / lm-eval", 1.5, ratios(times["rewarm"], times["lm-eval"])))
        gain = most(spent["rewarm"], {"lm-eval": ratios(times["rewarm"], times["lm-eval"]).median})
        notes.append(f"{label}: of rewarm's pass {gain}")
        notes.append(f"{label}: the summed losses differ by {abs(nats['rewarm'] / nats['lm-eval'] - 1):.1e} of them.")
    header = (
        "",
        "one large product, Gflop/s",
        "rewarm, of it (2N + 4 L d S operations a token)",
        "lm-eval, of it",
        "rewarm nats",
        "lm-eval nats",
    )
    title = f"{count} documents of at most {work['length']} tokens"
    versions = {"lm_eval": importlib.metadata.version("lm_eval")}
    table = Table(title, header, tuple(lines))
    spent_on = Table("Milliseconds of a pass, by torch's profiler", ("", "", *SPENT), tuple(profile))
    return Result(
        "evaluation",
        "Evaluation",
        (table, Table("What a pass takes", TAKEN, tuple(costs)), spent_on),
        tuple(bars),
        tuple(notes),
        size,
        versions=versions,
    )
