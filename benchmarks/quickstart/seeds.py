"""The quickstart's table over several seeds: base and arms anew for each, intervals over seeds and documents.

    python benchmarks/quickstart/seeds.py [--seeds 1 2 3] [--workdir quickstart/seeds]

Writes the table into docs/quickstart.md. About 7 minutes a seed on 2 cores.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import arms

from rewarm_bench import pages
from rewarm_bench.effects import Estimate, mean_delta, removed_fraction
from rewarm_bench.pages import percent, words
from rewarm_bench.product import per_document

PAGE = arms.ROOT / "docs" / "quickstart.md"
BEGIN, END = "<!-- seeds.py writes from here -->", "<!-- to here -->"


def rows(folders: Sequence[Path]) -> list[tuple[str, Estimate, Estimate]]:
    """(arm, gain on the new domain, forgetting on the old) over all seeds."""
    return [
        (
            arm.title,
            mean_delta([per_document(folder / arm.name, arms.NEW) for folder in folders]).negative,
            mean_delta([per_document(folder / arm.name, arms.OLD) for folder in folders]),
        )
        for arm in arms.ARMS
    ]


def removed(folders: Sequence[Path], *, from_control: bool = False) -> Estimate:
    without, replay, control = ([per_document(folder / arm.name, arms.OLD) for folder in folders] for arm in arms.ARMS)
    return removed_fraction(without, replay, control if from_control else None)


def markdown(seeds: Sequence[int], folders: Sequence[Path]) -> str:
    lines = [
        pages.table(
            ("continued on", f"gain on {arms.NEW} (new)", f"forgetting on {arms.OLD} (old)"),
            [(title, words(gain), words(forgetting)) for title, gain, forgetting in rows(folders)],
        ),
        "",
        f"Replay removed **{percent(removed(folders))}** of the forgetting; measured from the control arm instead "
        f"of the base, {percent(removed(folders, from_control=True))}. Each seed by itself, from the base: "
        + ", ".join(f"{seed}: {percent(removed([folder]))}" for seed, folder in zip(seeds, folders, strict=True))
        + ".",
        "",
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))}), each with a base of its own; nats per token; "
        "95 % intervals over seeds and documents (docs/statistics.md). "
        f"Python {platform.python_version()}, {platform.machine()}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workdir", type=Path, default=Path("quickstart/seeds"))
    given = parser.parse_args()
    arms.prepare(given.workdir)
    folders = [given.workdir / f"seed-{seed}" for seed in given.seeds]
    for seed, folder in zip(given.seeds, folders, strict=True):
        for arm in (arms.BASE, *arms.ARMS):
            arms.run(arm, folder, given.workdir / "corpora", (f"spec.training.seed={seed}",))
    text = markdown(given.seeds, folders)
    pages.replace_in(PAGE, BEGIN, END, text)
    print(text)
    print(f"\nwritten into {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
