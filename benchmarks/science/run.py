"""Reproduce findings: run their arms through `rewarm run`, judge the sentences, write table and figure.

    python benchmarks/science/run.py [NAME ...] [--size 0.5M] [--jobs 2] [--workdir science]
    make science NAME=replay

Without a name: all of them. Stopped and started again it goes on where it was; arms that findings share run once.
Writes docs/science.md and docs/images/science-NAME.svg when all arms of a finding are finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path

# `science` is a package beside `rewarm_bench`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rewarm_bench.pages import replace_in
from rewarm_bench.product import ROOT
from science import figures, page
from science.finding import Finding, Results
from science.findings import FINDINGS
from science.lab import Lab
from science.models import SIZES
from science.recipes import REHEARSAL, Setting


def reproduce(finding: Finding, setting: Setting, lab: Lab, docs: Path) -> None:
    """All arms of a finding, and its section in `docs`/science.md."""
    began = time.monotonic()
    print(f"\n── {finding.title}, {setting.size}, {len(setting.seeds)} seeds ──", file=sys.stderr, flush=True)
    arms = [finding.arms(setting, seed) for seed in setting.seeds]
    # Seed by seed within a generation: what is stopped early has whole seeds.
    every = [arm for seed in arms for arm in seed.values()]
    lab.run(every)
    results = [{name: lab.result(arm) for name, arm in seed.items()} for seed in arms]
    measured = finding.measure(Results(results), setting)
    key = section_key(finding, setting)
    picture = Path("images") / f"science-{key}.svg"
    figures.save(docs / picture, measured.panels)
    text = page.section(finding, setting, measured, picture.as_posix(), lab.seconds(every))
    page.save(docs / "science.md", key, text, beside=finding.name)
    replace_in(docs / "science.md", *page.marks("corpora"), page.corpora(lab.corpora))
    print(f"{text}\n\nwritten into {docs / 'science.md'} after {time.monotonic() - began:.0f} s", flush=True)


def section_key(finding: Finding, setting: Setting) -> str:
    """Each finding at its own size has the section of its name; another size has one of its own."""
    return finding.name if setting.size == finding.setting.size else f"{finding.name}-{setting.size}"


def rehearsal_page(folder: Path, finding: Finding) -> Path:
    """A page of its own for numbers that nobody should read."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("corpora", finding.name)
    text = "\n".join(f"{begin}\n{end}" for begin, end in map(page.marks, names))
    (folder / "science.md").write_text(text + "\n")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FINDINGS)}; default: all")
    parser.add_argument("--size", choices=list(SIZES), help="model size; default: the finding's own")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time; default: one a core")
    parser.add_argument("--workdir", type=Path, default=Path("science"), help="where texts and runs go")
    parser.add_argument("--rehearse", action="store_true", help="every step in minutes, into WORKDIR/rehearsal")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in FINDINGS]
    if unknown:
        parser.error(f"no finding {', '.join(unknown)}; there are {', '.join(FINDINGS)}")
    lab = Lab(given.workdir, given.jobs)
    for name in given.names or FINDINGS:
        finding = FINDINGS[name]
        size = given.size or finding.setting.size
        if given.rehearse:
            small = dataclasses.replace(REHEARSAL, size=size)
            reproduce(finding, small, lab, rehearsal_page(given.workdir / "rehearsal" / name, finding))
            continue
        reproduce(finding, dataclasses.replace(finding.setting, size=size), lab, ROOT / "docs")


if __name__ == "__main__":
    main()
