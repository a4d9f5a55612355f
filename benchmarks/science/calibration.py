"""Are the intervals as wide as they say? Coverage and width, on a real pair of models, on simulated skew, over seeds.

    python benchmarks/science/calibration.py                        tables into docs/statistics.md (10 minutes, 1 core)
    python benchmarks/science/calibration.py --datasets 50          a quick look, printed only
    python benchmarks/science/calibration.py fixture RUN SET        per-document numbers of a finished run

A data set of the real pair is a resample of its documents after their differences were centred on the weighted mean:
so the truth is zero and everything else is real, lengths included. (Two equal models give [0, 0] and prove nothing.)
Every interval is made by the product's own `paired_delta` and `hierarchical_interval`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewarm_trainer.statistics import RESAMPLES, Delta, paired_delta
from rewarm_trainer.statistics_seeds import hierarchical_interval

ROOT = Path(__file__).resolve().parents[2]
PAIR = Path(__file__).with_name("real-pair.json")
PAGE = ROOT / "docs" / "statistics.md"
BEGIN, END = "<!-- calibration.py writes from here -->", "<!-- to here -->"
SIZES = (30, 100, 300)
RECIPES = ((3, 0.003), (3, 0.02), (3, 0.2), (5, 0.02), (5, 0.2))
TAILS = (0.025, 0.975)

Numbers = np.ndarray[Any, np.dtype[np.float64]]
DataSet = Callable[[np.random.Generator, int], tuple[Numbers, Numbers]]


@dataclass(frozen=True)
class Coverage:
    """Share of data sets whose interval holds the truth, and mean width in nats per token."""

    covers: float
    width: float


def real_pair(path: Path = PAIR) -> tuple[Numbers, Numbers]:
    """Differences of a real pair, centred on their weighted mean, and labels, for each document."""
    stored = json.loads(path.read_text())
    d, n = (np.array(stored[name], dtype=np.float64) for name in ("difference", "labels"))
    return d - d.sum() / n.sum() * n, n


def resampled(centred: Numbers, labels: Numbers) -> DataSet:
    """Data sets drawn from the documents of a pair."""

    def draw(random: np.random.Generator, documents: int) -> tuple[Numbers, Numbers]:
        chosen = random.integers(0, len(labels), documents)
        return centred[chosen], labels[chosen]

    return draw


def skewed(spread: float) -> DataSet:
    """Log-normal lengths (log spread 1), and log-normal differences per token of log spread `spread`, expectation zero:
    a skewness of 1.75 at 0.5, of 6.2 at 1."""

    def draw(random: np.random.Generator, documents: int) -> tuple[Numbers, Numbers]:
        labels = np.round(np.exp(random.normal(5, 1, documents))) + 1
        per_token = 0.1 * (np.exp(random.normal(0, spread, documents)) - np.exp(spread**2 / 2))
        return per_token * labels, labels

    return draw


def measure(draw: DataSet, documents: int, datasets: int, resamples: int) -> tuple[Coverage, Coverage]:
    """Coverage of zero by our interval and by the percentile bootstrap, over data sets of `documents`."""
    random = np.random.default_rng(documents)
    ours, theirs = [], []
    for _ in range(datasets):
        d, n = draw(random, documents)
        found = paired_delta(d, n, resamples=resamples)
        ours.append((found.low, found.high))
        theirs.append(percentile(d, n, random, resamples))
    return _coverage(ours), _coverage(theirs)


def percentile(d: Numbers, n: Numbers, random: np.random.Generator, resamples: int) -> tuple[float, float]:
    """The percentile bootstrap over documents (Efron 1979)."""
    counts = random.multinomial(len(d), np.full(len(d), 1 / len(d)), resamples)
    low, high = np.quantile((counts @ d) / (counts @ n), TAILS)
    return float(low), float(high)


def _coverage(intervals: list[tuple[float, float]]) -> Coverage:
    low, high = np.array(intervals).T
    return Coverage(float(np.mean((low <= 0) & (high >= 0))), float(np.mean(high - low)))


def seeds_of_one_recipe(
    random: np.random.Generator, seeds: int, seed_spread: float, documents: int = 100
) -> tuple[list[Numbers], list[Numbers]]:
    """Pairs of equal recipes: effects of seed, of document (0.1) and of both together (0.05), nats per token."""
    labels = np.round(np.exp(random.normal(5, 1, documents))) + 1
    shared = random.normal(0, 0.1, documents)
    rows = [(random.normal(0, seed_spread) + shared + random.normal(0, 0.05, documents)) * labels for _ in range(seeds)]
    return rows, [labels] * seeds


def measure_seeds(seeds: int, seed_spread: float, datasets: int, resamples: int) -> dict[str, Coverage]:
    """Coverage of zero: hierarchical, documents of one seed alone, percentile bootstrap over seeds and documents."""
    random = np.random.default_rng(seeds)
    found: dict[str, list[tuple[float, float]]] = {"hierarchical": [], "documents": [], "percentile": []}
    for _ in range(datasets):
        rows, labels = seeds_of_one_recipe(random, seeds, seed_spread)
        found["hierarchical"].append(_ends(hierarchical_interval(rows, labels, resamples=resamples)))
        found["documents"].append(_ends(paired_delta(rows[0], labels[0], resamples=resamples)))
        found["percentile"].append(_crossed(rows, labels[0], random, resamples))
    return {name: _coverage(intervals) for name, intervals in found.items()}


def _ends(delta: Delta) -> tuple[float, float]:
    return delta.low, delta.high


def _crossed(rows: list[Numbers], labels: Numbers, random: np.random.Generator, resamples: int) -> tuple[float, float]:
    seeds, documents = len(rows), len(labels)
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    of_documents = random.multinomial(documents, np.full(documents, 1 / documents), resamples)
    sums = np.einsum("sd,rd,rs->r", np.array(rows), of_documents, of_seeds, optimize=True)
    low, high = np.quantile(sums / (of_documents @ labels) / seeds, TAILS)
    return float(low), float(high)


def markdown(datasets: int, resamples: int) -> str:
    stored = json.loads(PAIR.read_text())
    draws = {
        "real pair": resampled(*real_pair()),
        "log-normal skew (skewness 1.75)": skewed(0.5),
        "the same, extreme (6.2)": skewed(1.0),
    }
    lines = [
        "| data sets | documents | our interval covers | width | percentile bootstrap covers | width |",
        "|---|---|---|---|---|---|",
    ]
    for name, draw in draws.items():
        for size in SIZES:
            ours, theirs = measure(draw, size, datasets, resamples)
            lines.append(
                f"| {name} | {size} | {ours.covers:.1%} | {ours.width:.4f} | {theirs.covers:.1%} | {theirs.width:.4f} |"
            )
    lines += [
        "",
        "| seeds of one recipe | seed spread | hierarchical covers | documents of one seed alone | "
        "percentile bootstrap over both |",
        "|---|---|---|---|---|",
    ]
    for seeds, spread in RECIPES:
        found = measure_seeds(seeds, spread, datasets, resamples)
        shares = " | ".join(f"{found[name].covers:.1%}" for name in ("hierarchical", "documents", "percentile"))
        lines.append(f"| {seeds} | {spread:g} | {shares} |")
    lines += [
        "",
        f"{datasets:,} data sets a line (standard error 0.7 % at 1,000), {resamples:,} resamples an interval; widths "
        f"and spreads in nats per token; seeds: 100 documents, spread 0.1 between documents. Real pair: "
        f"{stored['what']}, {len(stored['labels'])} documents.",
    ]
    return "\n".join(lines)


def write_page(text: str) -> None:
    """Replace what stands between the two marks of docs/statistics.md."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


def fixture(folder: Path, name: str, what: str) -> None:
    """Per-document numbers of a run's set: nothing of its text."""
    baseline, final = (
        json.loads((folder / "state" / kind / f"{name}.json").read_text()) for kind in ("baseline", "final")
    )
    change = np.subtract(final["nats"], baseline["nats"])
    value = {"what": what, "difference": [round(float(each), 3) for each in change], "labels": final["labels"]}
    PAIR.write_text(json.dumps(value, separators=(",", ":")) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    commands = parser.add_subparsers(dest="command")
    make = commands.add_parser("fixture", help="per-document numbers of a finished run")
    make.add_argument("folder", type=Path)
    make.add_argument("set")
    make.add_argument("--what", required=True, help="the pair in words")
    given = parser.parse_args()
    if given.command == "fixture":
        fixture(given.folder, given.set, given.what)
        return
    text = markdown(given.datasets, given.resamples)
    print(text)
    if given.datasets >= 1000:
        write_page(text)
        print(f"\nwritten into {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
