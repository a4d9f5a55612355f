"""Row 5: meta-experience replay, compared at equal loss on the new text.

base(general) ──┬─> german, 25 % replay, peaks of 1, 1/2, 1/4, 1/8      what plain runs pay for how much they learn
                └─> the same with a Reptile step every 10 updates, epsilon 0.5 and 0.2
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import words
from science import figures
from science.arms import Arm
from science.claims import Above, Below, Claim
from science.corpora import GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.findings.replay import arm
from science.recipes import BATCH, Setting, base, continued, cosine
from science.results import Run, change, contrast, over_seeds

PAPER = "2508.01908 (read second-hand)"
RATIO, INTERVAL = 0.25, 10
PEAKS = {"plain-1": 1.0, "plain-1/2": 0.5, "plain-1/4": 0.25, "plain-1/8": 0.125}
EPSILONS = {"reptile-0.5": 0.5, "reptile-0.2": 0.2}

CLAIMS = (
    Claim(
        "equal-gain",
        "With 25 % of replay a Reptile step every 10 updates forgets less than replay alone at equal loss on the new "
        "text (plain runs of lower peaks, interpolated in each seed).",
        PAPER,
        Below(),
        "560M, downstream average: 67.5 against 66.4",
    ),
    Claim(
        "slower",
        "At equal tokens it learns less of the new text: a Reptile step keeps only epsilon of each period's way.",
        "Nichol et al. 2018, 1803.02999: the same interpolation",
        Above(),
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    on = base(setting, seed)
    go = partial(continued, setting=setting, seed=seed, on=on, new=GERMAN, ratio=RATIO)
    # A plan needs at least two periods; a rehearsal has ten updates.
    interval = min(INTERVAL, setting.tokens // BATCH // 4)

    def method(epsilon: float) -> dict[str, Any]:
        return {"method": "MetaExperienceReplay", "metaExperience": {"interval": interval, "epsilon": epsilon}}

    plain = {
        # The first of them is an arm of the replay finding.
        name: go(arm(GERMAN, 25) if peak == 1 else f"peak-{100 * peak:.0f}-r25", schedule=cosine(setting, peak))
        for name, peak in PEAKS.items()
    }
    reptile = {
        name: go(f"reptile-{100 * epsilon:.0f}", lines={"replay": method(epsilon)})
        for name, epsilon in EPSILONS.items()
    }
    return plain | reptile


def _changed(run: Run, name: str) -> float:
    documents = run.final(name)
    return float(documents.difference.sum() / documents.labels.sum())


def at_equal_gain(results: Results, name: str) -> Estimate:
    """Old-text change of an arm minus that of plain runs, interpolated where they learned as much of the new text."""
    gaps = []
    for seed in results.seeds:
        ladder = sorted((_changed(seed[plain], GERMAN), _changed(seed[plain], GENERAL)) for plain in PEAKS)
        learned, forgot = zip(*ladder, strict=True)
        gaps.append(_changed(seed[name], GENERAL) - np.interp(_changed(seed[name], GERMAN), learned, forgot))
    return over_seeds([float(gap) for gap in gaps])


def measure(results: Results, setting: Setting) -> Measured:
    comparisons = {
        "equal-gain": {f"epsilon {epsilon}": at_equal_gain(results, name) for name, epsilon in EPSILONS.items()},
        "slower": {
            f"epsilon {epsilon}": contrast(results[name], results["plain-1"], GERMAN)
            for name, epsilon in EPSILONS.items()
        },
    }
    rows = [
        (name, words(change(results[name], GENERAL)), words(change(results[name], GERMAN)))
        for name in (*PEAKS, *EPSILONS)
    ]
    table = Table(
        "Change of the loss from the base, all with 25 % of replay and equal tokens (beyond the ends of the plain "
        "ladder its last rung is taken):",
        ("arm", "old text (general)", "new text (german)"),
        rows,
    )
    points = {name: (change(results[name], GENERAL), change(results[name], GERMAN)) for name in (*PEAKS, *EPSILONS)}
    return Measured(comparisons, [table], [partial(figures.plane, points=points, old=GENERAL, new=GERMAN)])


FINDING = Finding("experience", "Meta-experience replay", CLAIMS, arms, measure)
