"""Row 4, remedies: a subset of the new text for several epochs, and what too small a subset does.

base(general) ──> german, 5 % replay:  one pass | 60K tokens, five passes | 6K tokens, fifty passes | 25 % replay
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import words
from science import figures
from science.arms import Arm
from science.claims import Above, Below, Claim
from science.corpora import GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.findings.replay import arm
from science.recipes import Setting, base, continued, source
from science.results import Runs, change, contrast, over, peak, rise_contrast, share_of_runs

PAPER = "Guo et al. 2024, 2406.14833"
PASSES = {"five": 5, "fifty": 50}
PLAIN, MIXED = arm(GERMAN, 5), arm(GERMAN, 25)
LABELS = {PLAIN: "all of it, once", "five": "a subset, 5 passes", "fifty": "a subset, 50 passes", MIXED: "25 % replay"}

CLAIMS = (
    Claim(
        "subset",
        "A subset for five passes makes the gap shallower than one pass over more text, at equal tokens (highest look "
        "at the old text).",
        f"{PAPER}, first strategy",
        Below(),
        "5B of 50B tokens for 5 epochs instead of 50B once",
    ),
    Claim(
        "mixture",
        "More of the pretraining mixture (25 instead of 5 % replay) makes it shallower.",
        f"{PAPER}, third strategy",
        Below(),
    ),
    Claim(
        "overfits",
        "Too small a subset (fifty passes) ends with a higher loss on held-out new text than one pass.",
        f"{PAPER}: a subset of 1B overfits in later epochs",
        Above(),
    ),
    Claim(
        "said",
        "The report of a run that overfits says so: more than half of the seeds with fifty passes were warned.",
        "a promise of ours (docs/controllers.md)",
        Above(0.5),
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    go = partial(continued, setting=setting, seed=seed, on=base(setting, seed), new=GERMAN)
    subsets = {
        name: go(
            f"subset-{passes}",
            ratio=0.05,
            lines={"corpus": {"sources": [{**source(GERMAN), "subset": {"tokens": setting.tokens // passes}}]}},
        )
        for name, passes in PASSES.items()
    }
    return {PLAIN: go(PLAIN, ratio=0.05), **subsets, MIXED: go(MIXED, ratio=0.25)}


def warned(runs: Runs) -> Estimate:
    """Share of the seeds whose report warns of overfitting."""
    return share_of_runs(runs, lambda run: any("overfits" in each for each in run.report().get("warnings", ())))


def measure(results: Results, setting: Setting) -> Measured:
    comparisons = {
        "subset": {"": rise_contrast(peak, results["five"], results[PLAIN], GENERAL)},
        "mixture": {"": rise_contrast(peak, results[MIXED], results[PLAIN], GENERAL)},
        "overfits": {"": contrast(results["fifty"], results[PLAIN], GERMAN)},
        "said": {"": warned(results["fifty"])},
    }
    rows = [
        (label, words(over(peak, results[name], GENERAL)), words(change(results[name], GENERAL)),
         words(change(results[name], GERMAN)), f"{warned(results[name]).value:.0%}")
        for name, label in LABELS.items()
    ]  # fmt: skip
    table = Table(
        "Change of the loss from the base. A subset's size is counted in quarters of its bytes, so its passes are "
        "near the number, not it:",
        ("new text", "old text, highest look", "old text, end", "new text, end", "warned of overfitting"),
        rows,
    )
    named = {label: results[name] for name, label in LABELS.items()}
    return Measured(
        comparisons,
        [table],
        [
            partial(figures.rises, arms=named, name=GENERAL, title="old text"),
            partial(figures.rises, arms=named, name=GERMAN, title="new text"),
        ],
    )


FINDING = Finding("remedies", "Remedies for the stability gap", CLAIMS, arms, measure)
