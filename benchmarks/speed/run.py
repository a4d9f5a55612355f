"""Measure rows of the bench, print the table, write docs/speed.md.

    python benchmarks/speed/run.py [NAME ...] [--size smoke|standard|full] [--write] [--workdir speed]
    make bench [NAME=loader] [SIZE=full]

Without a name: the rows for which there is time in 19 minutes, by what they took before. With
--write a row's result is kept in results/, so rows may be measured one by one; the page shows the last of each. What
smoke measures is for nobody to read, and never goes on the page.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

# `speed` is a package beside `rewarm_bench`; this folder itself must not be searched.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from rewarm_bench.pages import replace_in  # noqa: E402
from rewarm_bench.product import ROOT  # noqa: E402
from rewarm_trainer.machine import find  # noqa: E402
from speed import page  # noqa: E402
from speed.result import Bar, Result  # noqa: E402

ROWS = {
    "step": ("step", "measure"),
    "loader": ("loader", "measure"),
    "evaluation": ("evaluation", "measure"),
    "checkpoint": ("checkpoint", "measure"),
    "vocabulary": ("vocabulary", "measure"),
    "start": ("start", "measure"),
    "memory": ("memory", "measure"),
    "scaling": ("scaling", "measure"),
    "preparation": ("preparation", "measure"),
    "gpu": ("gpu", "measure"),
    "end-to-end": ("end_to_end", "measure"),
    "techniques": ("techniques", "measure"),
    "defaults": ("step", "defaults"),
}
ENOUGH_SECONDS = 19 * 60
"""Without names, a row begins only where it will end before this, by what it took when it was measured last."""
UNKNOWN_SECONDS = 7 * 60
"""What a row is taken to need that was measured nowhere yet."""
BROKE = "the row broke"
SIZES = ("smoke", "standard", "full")
RESULTS = Path(__file__).resolve().parent / "results"
"""Of the rows on the page, committed with it, a folder for each hardware: what others were measured on stays."""
MARKS = "<!-- speed:begin -->", "<!-- speed:end -->"


def machine() -> str:
    """The hardware, in words that do not name a machine."""
    found = find()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    precision = "" if found.device != "cpu" else ", BF16" if found.native_bf16 else ", no BF16"
    return f"{os.cpu_count()} cores, {model}{precision}"


def commit() -> str:
    """Of the code that is measured, `+` where files differ from it."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty=+"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def own_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "rewarm")}


def measure(name: str, size: str, workdir: Path, code: str) -> Result:
    """One row of the commit `code`; one that breaks is a result too, and says why."""
    module, function = ROWS[name]
    print(f"── {name} ──", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        found = getattr(importlib.import_module(f"speed.rows.{module}"), function)(size, workdir / "peers")
    except Exception as error:
        traceback.print_exc()
        found = Result(name, name, (), (Bar.missing("all of it", 0.0, f"{BROKE}: {error}"),), (), size)
    result: Result = dataclasses.replace(
        found,
        seconds=time.monotonic() - began,
        machine=machine(),
        commit=code,
        versions={**own_versions(), **found.versions},
    )
    print(page.marked([result]), flush=True)
    return result


def broke(result: Result) -> bool:
    return any(bar.reason.startswith(BROKE) for bar in result.bars)


def keep(result: Result, stored: Path) -> None:
    """Beside the other rows of its hardware. A rehearsal is not kept, nor a row that broke: what was measured stays."""
    if result.size != "smoke" and not broke(result):
        folder = stored / re.sub("[^a-z0-9]+", "-", result.machine.lower()).strip("-")
        folder.mkdir(exist_ok=True)
        (folder / f"{result.name}.json").write_text(json.dumps(result.to_json(), indent=1) + "\n")


def skipped(name: str, size: str) -> Result:
    """A row for which there was no time."""
    option = "" if size == "standard" else f" SIZE={size}"
    reason = f"no time was left in this run; `make bench NAME={name}{option}`"
    return dataclasses.replace(page.absence(name, reason), size=size)


def measure_all(names: list[str], size: str, workdir: Path, write: bool) -> tuple[list[Result], set[str]]:
    """The rows named; without names all that there is time for, of the others what was measured last (named beside)."""
    began, results, old = time.monotonic(), [], set()
    stored = kept(RESULTS)
    earlier = {result.name: result for result in stored if result.machine == machine()}
    # Asked once: with --write every row changes a file. What this hardware lacks comes first, so that calls add up.
    code, order = commit(), names or sorted(ROWS, key=lambda name: name in earlier)
    for name in order:
        ends = time.monotonic() - began + expected(name, stored)
        if not names and size == "standard" and ends > ENOUGH_SECONDS:
            results.append(earlier.get(name) or skipped(name, size))
            old.add(name)
            continue
        results.append(measure(name, size, workdir, code))
        if write:
            keep(results[-1], RESULTS)
    return results, old


def expected(name: str, stored: Sequence[Result]) -> float:
    """Seconds that a row will take: what it took here, else the longest elsewhere."""
    taken = [(result.machine == machine(), result.seconds) for result in stored if result.name == name]
    return max(taken)[1] if taken else UNKNOWN_SECONDS


def kept(stored: Path) -> list[Result]:
    """What the page is made of, in its order: hardware by hardware, of each row what was measured last."""
    paths = [folder / f"{name}.json" for folder in sorted(stored.iterdir()) for name in ROWS]
    return [Result.from_json(json.loads(path.read_text())) for path in paths if path.exists()]


def written() -> str:
    """The page's part that this script makes."""
    return page.page(kept(RESULTS), tuple(ROWS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--size", choices=SIZES, default="standard")
    parser.add_argument(
        "--write", action="store_true", help="keep the results, and write docs/speed.md from all that are kept"
    )
    parser.add_argument("--workdir", type=Path, default=ROOT / "speed")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(ROWS)):
        print(f"error: {unknown[0]} is no row of the bench, expected one of {', '.join(ROWS)}", file=sys.stderr)
        return 64
    workdir = options.workdir.absolute()
    # What Python compiled is kept, for peers as for us: a user compiles once, not at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    measured, earlier = measure_all(options.names, options.size, workdir, options.write)
    print("\n" + page.marked(measured, earlier))
    if options.write:
        if options.size == "smoke":
            print("smoke results are not written", file=sys.stderr)
            return 0
        replace_in(ROOT / "docs" / "speed.md", *MARKS, written())
    return int(any(map(broke, measured)))


if __name__ == "__main__":
    sys.exit(main())
