"""Row 4: the stability gap, from the replay arms of the strong shift: how deep, when, and what comes back.

base(general) ──> german with 0, 5, 25, 50 % of general; looks after 1, 2, 4, 8, 16 updates, then every tenth
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise

import numpy as np

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import percent, words
from science import figures
from science.arms import Arm
from science.claims import Above, Below, Claim
from science.corpora import GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.findings.replay import arm
from science.recipes import Setting, base, continued
from science.results import Look, Runs, between, change, over, over_seeds, peak, recovered, rise_contrast

PAPER = "Guo et al. 2024, 2406.14833"
RATIOS = (0, 5, 25, 50)
REPLAYED = RATIOS[1:]

CLAIMS = (
    Claim(
        "visible",
        "With replay the loss on the old text first rises by more than 0.05 nats per token (highest look).",
        f"{PAPER}: task accuracy drops, then recovers",
        Above(0.05),
        "a drop in the first 5B of 50B tokens",
    ),
    Claim(
        "recovers",
        "With 25 and 50 % of replay more than half of that rise is gone at the end of the run.",
        PAPER,
        Above(0.5),
        "recovers within the run",
    ),
    Claim(
        "permanent",
        "Without replay less than a quarter of the rise is gone at the end: that is forgetting, not a gap.",
        "our own measurement of one seed (68 % with 25 % of replay, 4 % without)",
        Below(0.25),
    ),
    Claim(
        "early",
        "With replay the peak lies in the first quarter of the run.",
        PAPER,
        Below(0.25),
        "in the first tenth",
    ),
    Claim(
        "shallower",
        "More replay makes the gap shallower: each step 5, 25, 50 % lowers the highest look.",
        f"{PAPER}, third strategy: a pretraining-like mixture",
        Below(),
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    on = base(setting, seed)
    return {
        arm(GERMAN, ratio): continued(arm(GERMAN, ratio), setting, seed, on, GERMAN, ratio=ratio / 100)
        for ratio in RATIOS
    }


def peak_place(runs: Runs) -> Estimate:
    """Where the highest look lies, as a share of the run."""
    return over_seeds([peak(run.looks(GENERAL)).tokens / run.tokens for run in runs])


def area(runs: Runs) -> Estimate:
    """Rise above the base, where it is above, averaged over the run's tokens: nats per token."""
    areas = []
    for run in runs:
        looks = run.looks(GENERAL)
        tokens = np.array([0, *(look.tokens for look in looks)])
        above = np.maximum(0, [0.0, *(look.rise for look in looks)])
        areas.append(float(np.trapezoid(above, tokens) / tokens[-1]))
    return over_seeds(areas)


def measure(results: Results, setting: Setting) -> Measured:
    found = {ratio: results[arm(GERMAN, ratio)] for ratio in RATIOS}
    comparisons = {
        "visible": {f"{ratio} %": over(peak, found[ratio], GENERAL) for ratio in REPLAYED},
        "recovers": {f"{ratio} %": recovered(found[ratio], GENERAL) for ratio in (25, 50)},
        "permanent": {"0 %": recovered(found[0], GENERAL)},
        "early": {f"{ratio} %": peak_place(found[ratio]) for ratio in REPLAYED},
        "shallower": {
            f"{less} → {more} %": rise_contrast(peak, found[more], found[less], GENERAL)
            for less, more in pairwise(REPLAYED)
        },
    }
    return Measured(comparisons, [_table(found)], _panels(found))


def _table(found: Mapping[int, Runs]) -> Table:
    def fall(looks: list[Look]) -> tuple[Look, Look]:
        return peak(looks), looks[-1]

    rows = [
        (f"{ratio} %", words(over(peak, runs, GENERAL)), percent(peak_place(runs), 0), words(area(runs)),
         words(between(fall, runs, GENERAL)), percent(recovered(runs, GENERAL), 0), words(change(runs, GERMAN)))
        for ratio, runs in found.items()
    ]  # fmt: skip
    header = ("replay", "depth", "peak at", "area", "from peak to end", "recovered", "new text (german), end")
    return Table(
        "The old text during the run. Depth is the highest look, which noise biases upward; area is the mean rise "
        "over the run's tokens:",
        header,
        rows,
    )


def _panels(found: Mapping[int, Runs]) -> list[figures.Panel]:
    named = {f"{ratio} %": runs for ratio, runs in found.items()}
    return [
        partial(figures.rises, arms=named, name=GENERAL, title="old text, by replay"),
        partial(figures.rises, arms=named, name=GERMAN, title="new text, by replay"),
    ]


FINDING = Finding("stability", "Stability gap", CLAIMS, arms, measure)
