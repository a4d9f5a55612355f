"""Training tokens per second against a bare PyTorch loop and transformers.Trainer: `python benchmarks/speed/run.py`.

Every arm is a process of its own, with its own defaults of the C library and of OpenMP; they wait while another runs.
At equal precision: rounds of all arms in turn, the median of the rounds, ratios taken round by round, so that a machine
whose speed drifts does not decide. At their own defaults: from an empty compilation cache, compilation included.
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
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
# What libgomp does when nobody says otherwise; the product says otherwise, its peers do not.
SPINNING = "300000"
PEERS = ("bare", "trainer")


class Arm:
    """A trainer in a process of its own, told how many steps to take next."""

    def __init__(
        self, name: str, work: dict[str, int], *, bf16: bool, compiled: bool, cache: str | None = None
    ) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
        if name == "trainer":
            environment["GOMP_SPINCOUNT"] = SPINNING
        if cache:
            environment["TORCHINDUCTOR_CACHE_DIR"] = cache
        options = json.dumps({"name": name, "work": work, "bf16": bf16, "compiled": compiled})
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--arm", options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith('{"answer"'):  # transformers prints dictionaries of its own
                return json.loads(line)["answer"]
        raise RuntimeError(f"an arm ended with {self._process.wait()}")

    def run(self, steps: int) -> float:
        """Seconds of `steps` updates."""
        assert self._process.stdin
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def __enter__(self) -> Arm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()


def serve(options: dict[str, Any]) -> None:
    """The other end of an arm: build it, then take steps as told."""
    sys.path[:0] = [str(ROOT / part) for part in ("api", "trainer")] + [str(Path(__file__).parent)]
    from arms import Bare, HuggingFace, Rewarm, Text, Work

    import rewarm_trainer  # noqa: F401 - before torch: it sets how long OpenMP spins

    work = Work(**options["work"])
    arms = {"rewarm": Rewarm, "bare": Bare, "trainer": HuggingFace}
    arm = arms[options["name"]](work, Text(work), bf16=options["bf16"], compiled=options["compiled"])
    print(json.dumps({"answer": sum(parameter.numel() for parameter in work.model().parameters())}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"answer": arm.run(int(line))}), flush=True)


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def ratio(mine: list[float], theirs: list[float]) -> str:
    """Median and range of theirs over mine: how many times faster mine is."""
    ratios = [other / own for own, other in zip(mine, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def equal_precision(work: dict[str, int], rounds: int, steps: int) -> list[str]:
    lines = [row(["compute", "rewarm", "bare loop", "Trainer", "rewarm / bare", "rewarm / Trainer"])]
    lines.append("|---|---|---|---|---|---|")
    for precision in ("bf16", "fp32"):
        seconds: dict[str, list[float]] = {name: [] for name in ("rewarm", *PEERS)}
        with ExitStack() as stack:
            arms = {
                name: stack.enter_context(Arm(name, work, bf16=precision == "bf16", compiled=name != "trainer"))
                for name in seconds
            }
            for arm in arms.values():
                arm.run(3)
            for _ in range(rounds):
                for name, arm in arms.items():
                    seconds[name].append(arm.run(steps))
        tokens = work["rows"] * work["length"] * steps
        rates = [f"{tokens / statistics.median(each):,.0f}" for each in seconds.values()]
        lines.append(row([precision, *rates, *(ratio(seconds["rewarm"], seconds[peer]) for peer in PEERS)]))
    return lines


def at_defaults(work: dict[str, int], steps: int) -> list[str]:
    seconds = {}
    for name in ("rewarm", "trainer"):
        with tempfile.TemporaryDirectory() as cache:
            own = name == "rewarm"
            began = time.perf_counter()
            with Arm(name, work, bf16=own, compiled=own, cache=cache) as arm:
                arm.run(steps)
            seconds[name] = time.perf_counter() - began
    lines = [row(["", "seconds", "its defaults"]), "|---|---|---|"]
    own = "bf16 compute, compiled blocks, plain attention, threads that do not spin, freed memory kept"
    lines.append(row(["rewarm", f"{seconds['rewarm']:.0f}", own]))
    lines.append(row(["Trainer", f"{seconds['trainer']:.0f}", "fp32, not compiled"]))
    return [*lines, row(["ratio", f"{seconds['trainer'] / seconds['rewarm']:.2f}", ""])]


def page() -> str:
    """All tables as Markdown."""
    import torch
    import transformers

    parts: list[str] = []
    small = {"hidden": 128, "layers": 4, "vocabulary": 2048, "length": 256, "rows": 32}
    larger = {"hidden": 256, "layers": 6, "vocabulary": 4096, "length": 256, "rows": 16}
    for title, work in (("1.1M parameters", small), ("5.9M parameters", larger)):
        parts += [f"**{title}, {work['rows']} rows of {work['length']} tokens a step, at equal precision.** Tokens per"]
        parts += ["second, median of 5 rounds of 6 steps in turn; rewarm and the bare loop use the same techniques,"]
        parts += ["the Trainer is as it comes.", "", *equal_precision(work, rounds=5, steps=6), ""]
        print("\n".join(parts[-6:]), flush=True)
    parts += [
        "**500 steps of the smaller one at each one's own defaults**, start and compilation included.",
        "",
    ]
    parts += [*at_defaults(small, steps=500), ""]
    print("\n".join(parts[-5:]), flush=True)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return "\n".join([*parts, f"{versions}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/speed.md")
    options = parser.parse_args()
    if options.arm:
        serve(json.loads(options.arm))
        return
    text = page()
    if options.write:
        path = ROOT / "docs" / "speed.md"
        start, end = "<!-- speed:begin -->", "<!-- speed:end -->"
        before, rest = path.read_text().split(start)
        path.write_text("\n".join([before + start, "", text, end + rest.split(end)[1]]))


if __name__ == "__main__":
    main()
