"""The quickstart: a base and three continual runs on real text, and one table of what replay is worth.

    python benchmarks/quickstart/run.py [--workdir quickstart]

Every number in the table is measured by these runs. Started again, finished runs are not repeated; for a fresh start
remove the folder.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import arms
from rich.console import Console
from rich.table import Table

from rewarm_bench.effects import removed_fraction
from rewarm_bench.pages import percent, words
from rewarm_bench.product import delta, per_document, report


def table(folder: Path) -> Table:
    """Gain on the new domain and forgetting on the old, arm by arm, as the runs' reports have them."""
    result = Table(
        title="Continual pretraining of a small base, nats per token with 95 % intervals", title_justify="left"
    )
    result.add_column("continued on")
    for column in (f"gain on {arms.NEW} (new)", f"forgetting on {arms.OLD} (old)", "tokens new", "tokens old"):
        result.add_column(column, justify="right")
    for arm in arms.ARMS:
        facts = report(folder / arm.name)
        tokens = facts["tokens"]["by_source"]
        gain, forgetting = delta(facts, arms.NEW).negative, delta(facts, arms.OLD)
        result.add_row(
            arm.title,
            words(gain),
            words(forgetting),
            f"{tokens.get(arms.NEW, 0):,}",
            f"{tokens.get(arms.OLD, 0):,}",
        )
    return result


def verdict(folder: Path) -> list[str]:
    """What the table means, in sentences that follow from its numbers."""
    without, replay, control = ([per_document(folder / arm.name, arms.OLD)] for arm in arms.ARMS)
    forgot = delta(report(folder / "without"), arms.OLD)
    if forgot.low <= 0:
        return ["Without replay nothing was forgotten beyond the interval: there is nothing for replay to remove."]
    removed = removed_fraction(without, replay)
    lines = [f"Replay removed {percent(removed)} of the forgetting (95 % interval over documents)."]
    alone = delta(report(folder / "control"), arms.OLD)
    if alone.high < 0:
        against = removed_fraction(without, replay, control)
        lines.append(
            f"The small base is undertrained: general text alone still improves it by {-alone.value:.3f}, so replay "
            f"also trains it. Measured from that control arm instead of the base, replay removed "
            f"{percent(against)}."
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("quickstart"), help="where corpora and runs go")
    folder: Path = parser.parse_args().workdir
    started = time.monotonic()
    arms.prepare(folder)
    for arm in (arms.BASE, *arms.ARMS):
        arms.run(arm, folder, folder / "corpora")
    # A pipe has no width of its own; a folded table in a log helps nobody.
    console = Console(width=None if os.isatty(1) else 120, highlight=False)
    console.print()
    console.print(table(folder))
    for line in verdict(folder):
        console.print(line)
    console.print(f"{time.monotonic() - started:.0f} s in all.\n")
    console.print(f"Report page:  {(folder / 'replay' / 'report.html').resolve()}", soft_wrap=True)
    mlflow = Path(".venv/bin/mlflow") if Path(".venv/bin/mlflow").exists() else Path("mlflow")
    console.print(
        f"MLflow:       {mlflow} ui --backend-store-uri sqlite:///{folder.resolve()}/mlflow.db", soft_wrap=True
    )


if __name__ == "__main__":
    main()
