"""Training tokens per second against a bare PyTorch loop and transformers.Trainer: `python benchmarks/speed/run.py`.

Two tables. At equal precision: rounds of all arms in turn in one process, the median of the rounds, ratios taken round
by round, so that a machine whose speed drifts does not decide. At their own defaults: a fresh process and an empty
compilation cache for each, compilation included; what differs is said.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("api", "trainer")] + [str(Path(__file__).parent)]

from arms import Bare, HuggingFace, Rewarm, Text, Work  # noqa: E402

import rewarm_trainer  # noqa: E402, F401 - before torch: it sets how long OpenMP spins

ARMS = {"rewarm": Rewarm, "bare": Bare, "trainer": HuggingFace}


def rounds(work: Work, bf16: bool, count: int, steps: int) -> dict[str, list[float]]:
    """Tokens per second of each arm in each round, the arms in turn."""
    text = Text(work)
    options = {"rewarm": True, "bare": True, "trainer": False}
    arms = {name: ARMS[name](work, text, bf16=bf16, compiled=options[name]) for name in ARMS}
    for arm in arms.values():
        arm.run(3)
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(count):
        for name, arm in arms.items():
            rates[name].append(work.tokens * steps / arm.run(steps))
    return rates


def defaults(work: Work, arm: str, steps: int) -> float:
    """Seconds of `steps` steps at the arm's own defaults for this machine, from a built model to the last update."""
    began = time.perf_counter()
    if arm == "rewarm":
        Rewarm(work, Text(work), bf16=True, compiled=True).run(steps)
    else:
        HuggingFace(work, Text(work), bf16=False, compiled=False).run(steps)
    return time.perf_counter() - began


def child(*arguments: str) -> str:
    """This script again in a process of its own, with an empty compilation cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        done = subprocess.run(
            [sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True, check=True
        )
    return done.stdout.strip().splitlines()[-1]


def table(title: str, rows: list[tuple[str, ...]]) -> str:
    head, *rest = rows
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rest), ""])


def equal_precision(work: Work, count: int, steps: int) -> str:
    rows: list[tuple[str, ...]] = [("compute", "rewarm", "bare loop", "Trainer", "rewarm / bare", "rewarm / Trainer")]
    for precision in ("bf16", "fp32"):
        rates = json.loads(child("--rounds", precision, "--work", json.dumps(vars(work)), str(count), str(steps)))
        ratios = {
            peer: [mine / theirs for mine, theirs in zip(rates["rewarm"], rates[peer], strict=True)]
            for peer in ("bare", "trainer")
        }
        middle = {name: f"{statistics.median(values):,.0f}" for name, values in rates.items()}
        spread = {
            name: f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
            for name, values in ratios.items()
        }
        rows.append((precision, middle["rewarm"], middle["bare"], middle["trainer"], spread["bare"], spread["trainer"]))
    return table(
        f"Equal precision, tokens per second, median of {count} interleaved rounds of {steps} steps; "
        "rewarm and the bare loop with the same techniques, the Trainer uncompiled",
        rows,
    )


def at_defaults(work: Work, count: int, steps: int) -> str:
    seconds: dict[str, list[float]] = {"rewarm": [], "trainer": []}
    for _ in range(count):
        for arm in seconds:
            seconds[arm].append(float(child("--defaults", arm, "--work", json.dumps(vars(work)), "1", str(steps))))
    ratios = [theirs / mine for mine, theirs in zip(seconds["rewarm"], seconds["trainer"], strict=True)]
    rows: list[tuple[str, ...]] = [("", "seconds", "what it does")]
    rows.append(
        ("rewarm", f"{statistics.median(seconds['rewarm']):.0f}", "bf16 compute, blocks compiled, plain attention")
    )
    rows.append(("Trainer", f"{statistics.median(seconds['trainer']):.0f}", "fp32, not compiled"))
    rows.append(("ratio", f"{statistics.median(ratios):.2f}", f"({min(ratios):.2f}–{max(ratios):.2f})"))
    return table(f"Both at their own defaults, {steps} steps from an empty compilation cache, {count} rounds", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", help=argparse.SUPPRESS)
    parser.add_argument("--defaults", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("counts", nargs="*", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/speed.md")
    options = parser.parse_args()
    if options.work:
        import transformers

        transformers.logging.set_verbosity_error()
        work = Work(**json.loads(options.work))
        if options.rounds:
            print(json.dumps(rounds(work, options.rounds == "bf16", *options.counts)))
        else:
            print(defaults(work, options.defaults, options.counts[1]))
        return
    page(options.write)


def page(write: bool) -> None:
    import torch
    import transformers

    parts = []
    for work in (Work(128, 4, 2048, 256, 32), Work(256, 6, 4096, 256, 16)):
        size = sum(parameter.numel() for parameter in work.model().parameters())
        parts.append(f"### {size / 1e6:.1f}M parameters, {work.rows} rows of {work.length} tokens a step\n")
        parts.append(equal_precision(work, count=5, steps=6))
        print(parts[-2], parts[-1], sep="\n", flush=True)
    parts.append(at_defaults(Work(128, 4, 2048, 256, 32), count=1, steps=500))
    print(parts[-1])
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {os.cpu_count()} CPU cores"
    if write:
        path = ROOT / "docs" / "speed.md"
        start, end = "<!-- speed:begin -->", "<!-- speed:end -->"
        before, rest = path.read_text().split(start)
        after = rest.split(end)[1]
        path.write_text("\n".join([before + start, "", *parts, f"Measured with {versions}.", "", end + after]))


if __name__ == "__main__":
    main()
