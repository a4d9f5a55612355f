"""Rows 4 and 7: documents of unequal quality, whose score is known because we spoiled them ourselves.

base(general) ──> noisy german, 5 % replay:  shuffled | ascending by quality, each at a constant rate | decayed to zero
                                             the best documents for several passes | as many at random

Everything new is measured on clean German of other pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rewarm_bench.pages import words
from science import figures
from science.arms import CORPORA, Arm
from science.claims import Below, Claim
from science.corpora import CLEAN, GENERAL, NOISY, QUALITY
from science.finding import Finding, Measured, Results, Table
from science.recipes import Setting, base, constant, continued, cosine, source
from science.results import change, contrast, contrast_of_contrasts, over, peak, rise_contrast

ORDERED = "How LR decay wastes your best data 2025, 2511.18903"
GUO = "Guo et al. 2024, 2406.14833"
PASSES = 5
LABELS = {
    "shuffled-constant": "shuffled, constant rate",
    "ascending-constant": "ascending, constant rate",
    "shuffled-decay": "shuffled, decayed to 0",
    "ascending-decay": "ascending, decayed to 0",
    "best": f"the best, {PASSES} passes, decayed",
    "random": f"a random part, {PASSES} passes, decayed",
}

CLAIMS = (
    Claim(
        "order",
        "At a constant rate, ascending quality ends with a lower loss on clean text than the same rows shuffled.",
        f"{ORDERED}, abstract and a second-hand account",
        Below(),
        "1.5B, Core4: 47.02 against 45.29 with averaged weights",
    ),
    Claim(
        "wasted",
        "A decay to zero wastes it: what the order gains there is less than at a constant rate.",
        f"{ORDERED}, abstract",
        Below(),
        "WSD: ascending 45.45, uniform 46.21",
    ),
    Claim(
        "best-first",
        "The best documents for several passes end with a lower loss on clean text than all of them once.",
        f"{GUO}, second strategy",
        Below(),
        "3B, medical average: 40.7 with all three strategies, 37.5 without",
    ),
    Claim(
        "quality-not-size",
        "It is the quality, not the repetition: a random part of the same size ends higher than the best one.",
        f"{GUO}, second strategy beside the first",
        Below(),
    ),
    Claim(
        "gap",
        "With the best documents the stability gap is shallower than with all of them (highest look at the old text).",
        f"{GUO}, second strategy",
        Below(),
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    on = base(setting, seed)
    noisy = source(NOISY)
    sets = [{"name": CLEAN, "role": "New", "uri": f"{CORPORA}{CLEAN}.jsonl"}, {"name": GENERAL, "role": "Retained"}]
    decayed = {**cosine(setting), "finalLearningRate": 0, "decay": "Linear"}
    steady = constant(setting, 1.0)
    part = {"tokens": setting.tokens // PASSES}

    def go(name: str, schedule: Mapping[str, Any], own: Mapping[str, Any], **lines: Any) -> Arm:
        spec = {"corpus": {"sources": [own]}, "evaluation": {"sets": sets}, **lines}
        return continued(f"quality-{name}", setting, seed, on, NOISY, ratio=0.05, schedule=schedule, lines=spec)

    ascending = [{"name": "all", "share": "100%", "order": "Ascending", "orderBy": QUALITY}]
    return {
        "shuffled-constant": go("shuffled-constant", steady, noisy),
        "ascending-constant": go("ascending-constant", steady, noisy, phases=ascending),
        "shuffled-decay": go("shuffled-decay", decayed, noisy),
        "ascending-decay": go("ascending-decay", decayed, noisy, phases=ascending),
        "best": go("best", decayed, {**noisy, "scoreField": QUALITY, "subset": {**part, "by": "HighestScore"}}),
        "random": go("random", decayed, {**noisy, "subset": {**part, "by": "Random"}}),
    }


def measure(results: Results, setting: Setting) -> Measured:
    steady = results["ascending-constant"], results["shuffled-constant"]
    decayed = results["ascending-decay"], results["shuffled-decay"]
    comparisons = {
        "order": {"": contrast(*steady, CLEAN)},
        "wasted": {"": contrast_of_contrasts(steady, decayed, CLEAN)},
        "best-first": {"": contrast(results["best"], results["shuffled-decay"], CLEAN)},
        "quality-not-size": {"": contrast(results["best"], results["random"], CLEAN)},
        "gap": {"": rise_contrast(peak, results["best"], results["shuffled-decay"], GENERAL)},
    }
    rows = [
        (label, words(change(results[name], CLEAN)), words(change(results[name], GENERAL)),
         words(over(peak, results[name], GENERAL)))
        for name, label in LABELS.items()
    ]  # fmt: skip
    table = Table(
        "Change of the loss from the base. `rewarm validate` warns about the arm that is ascending and decayed: there "
        f"the order changed the loss on clean text by {words(contrast(*decayed, CLEAN))}:",
        ("noisy text", "clean new text", "old text", "old text, highest look"),
        rows,
    )
    named = {label: results[name] for name, label in LABELS.items()}
    return Measured(
        comparisons,
        [table],
        [
            partial(figures.rises, arms=named, name=CLEAN, title="clean new text"),
            partial(figures.rises, arms=named, name=GENERAL, title="old text"),
        ],
    )


FINDING = Finding("quality", "Quality: which documents, and in which order", CLAIMS, arms, measure)
