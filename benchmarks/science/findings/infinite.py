"""Row 3: an infinite schedule against repeated cosine over a chain of three stages, the same tokens in each.

cosine    base(general) ──> german ──> code        each re-warmed to the peak and decayed
low       base(general) ──> german ──> code        the same, re-warmed to the trunk's constant rate only
infinite  trunk(general) ─> german ──> code        constant rate, no re-warming; the last fifth annealed
the same text again: base ─> general re-warmed; trunk ─> general at the constant rate, or as a branch that is annealed
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import words
from science import figures
from science.arms import Arm
from science.claims import Above, Below, Claim, Within
from science.corpora import CODE, GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.recipes import BASE_BATCH, FINAL_SHARE, Setting, base, continued, cosine
from science.results import change, contrast, over, peak, rise_contrast

IBRAHIM = "Ibrahim et al. 2024, 2403.08763"
BEYOND = "Beyond Cosine Decay 2025, 2503.02844"
# The paper's constant rate lies in the middle between peak and final: 1.65e-4 of 3e-4.
CONSTANT_SHARE = 0.55
MARGIN = 0.05

CHAINS = {
    "cosine": "repeated cosine",
    "low": f"repeated cosine, peak {CONSTANT_SHARE}",
    "infinite": "infinite",
}

CLAIMS = (
    Claim(
        "chain-old",
        "After three stages the annealed infinite chain has forgotten less than repeated cosine: lower final losses on "
        "the texts of the first and of the second stage.",
        f"{BEYOND}, abstract",
        Below(),
        "better retention than repeated cosine",
    ),
    Claim(
        "chain-old-low",
        "So it has against repeated cosine that is re-warmed no higher than the trunk's constant rate "
        f"({CONSTANT_SHARE} of the peak): it is the schedule, not only the lower rate.",
        "expected, measured in neither paper",
        Below(),
    ),
    Claim(
        "chain-new",
        f"It learns the last text about as well: final losses within {MARGIN} nats per token.",
        f"{IBRAHIM}, section 7 (infinite schedules, three splits of one text)",
        Within(-MARGIN, MARGIN),
        "similar final loss",
    ),
    Claim(
        "no-bump",
        "A trunk that goes on with the same text at its constant rate shows no bump: the highest look is less than "
        "0.02 nats per token above where it started.",
        f"{IBRAHIM}, section 7 (infinite schedules, three splits of one text)",
        Below(0.02),
        "none",
    ),
    Claim(
        "no-bump-same-batch",
        "Nor does one that goes on with its own batch too (other continuations here have half of it): the highest look "
        "is less than 0.02 nats per token above where it started.",
        f"{IBRAHIM}, section 7 (infinite schedules, three splits of one text)",
        Below(0.02),
        "none",
    ),
    Claim(
        "smaller-bump",
        "Repeated cosine, re-warmed on the same text, rises higher above its start than the trunk does.",
        f"{IBRAHIM}, section 7.1 and infinite schedules",
        Above(),
        "+0.1 against none",
    ),
    Claim(
        "smaller-rise",
        "On entering the second stage the old text's loss rises less above its start under the infinite schedule "
        "(highest look of the stage).",
        "expected from both papers, measured in neither",
        Above(),
    ),
    Claim(
        "branch",
        "A branch of the trunk, annealed over the same tokens of the same text, is better than the trunk that it left "
        "and than the trunk that goes on.",
        f"{BEYOND}; Hägele et al. 2024, 2405.18392: cooldowns from one stable run",
        Below(),
    ),
)


def infinite(setting: Setting, *, first: bool, anneal: bool) -> dict[str, Any]:
    """The infinite schedule; warm-up and cooldown only in the first stage, as the paper's."""
    rate = setting.peak
    lines: dict[str, Any] = {
        "kind": "Infinite",
        "peakLearningRate": rate if first else rate * CONSTANT_SHARE,
        "constantLearningRate": rate * CONSTANT_SHARE,
        "warmup": "1%" if first else 0,
        "cooldown": {"length": "60%" if first else 0},
    }
    if anneal:
        lines |= {"finalLearningRate": rate * FINAL_SHARE, "anneal": {"length": "20%", "decay": "Exponential"}}
    return lines


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    going = infinite(setting, first=False, anneal=False)
    ending = infinite(setting, first=False, anneal=True)
    falling = {"peakLearningRate": setting.peak, "finalLearningRate": setting.peak * FINAL_SHARE}
    on = base(setting, seed)
    trunk = base(setting, seed, infinite(setting, first=True, anneal=False), "trunk")
    cosine_2 = continued("german-r0", setting, seed, on, GERMAN)
    low_2 = continued("low-2", setting, seed, on, GERMAN, schedule=cosine(setting, CONSTANT_SHARE))
    infinite_2 = continued("infinite-2", setting, seed, trunk, GERMAN, schedule=going)
    third = partial(continued, setting=setting, seed=seed, new=CODE, retained=(GENERAL, GERMAN))
    return {
        "trunk": trunk,
        "cosine-2": cosine_2,
        "infinite-2": infinite_2,
        "cosine-3": third("cosine-3", on=cosine_2, schedule=cosine(setting)),
        "infinite-3": third("infinite-3", on=infinite_2, schedule=ending),
        "low-2": low_2,
        "low-3": third("low-3", on=low_2, schedule=cosine(setting, CONSTANT_SHARE)),
        "infinite-same-batch": continued(
            "infinite-same-batch",
            setting,
            seed,
            trunk,
            GENERAL,
            schedule=going,
            lines={"training": {"globalBatchTokens": BASE_BATCH}},
        ),
        "cosine-same": continued("same-1", setting, seed, on, GENERAL),
        "infinite-same": continued("infinite-same", setting, seed, trunk, GENERAL, schedule=going),
        "branch": continued(
            "branch", setting, seed, trunk, GENERAL, schedule=falling, run={"anneal": {"length": "100%"}}
        ),
    }


def measure(results: Results, setting: Setting) -> Measured:
    def last(name: str, other: str = "cosine-3") -> Estimate:
        return contrast(results["infinite-3"], results[other], name)

    comparisons = {
        "chain-old": {name: last(name) for name in (GENERAL, GERMAN)},
        "chain-old-low": {name: last(name, "low-3") for name in (GENERAL, GERMAN)},
        "chain-new": {CODE: last(CODE)},
        "no-bump": {"": over(peak, results["infinite-same"], GENERAL)},
        "no-bump-same-batch": {"": over(peak, results["infinite-same-batch"], GENERAL)},
        "smaller-bump": {"": rise_contrast(peak, results["cosine-same"], results["infinite-same"], GENERAL)},
        "branch": {
            "than where it left": change(results["branch"], GENERAL),
            "than the trunk": contrast(results["branch"], results["infinite-same"], GENERAL),
        },
        "smaller-rise": {"": rise_contrast(peak, results["cosine-2"], results["infinite-2"], GENERAL)},
    }
    return Measured(comparisons, _tables(results), _panels(results))


def _tables(results: Results) -> list[Table]:
    rows = [
        (
            CHAINS[kind],
            stage,
            words(change(results[f"{kind}-{stage}"], GENERAL)),
            words(change(results[f"{kind}-{stage}"], GERMAN)),
            words(change(results[f"{kind}-{stage}"], CODE)) if stage == "3" else "–",
        )
        for kind in CHAINS
        for stage in ("2", "3")
    ]
    same = [
        (label, words(over(peak, results[arm], GENERAL)), words(change(results[arm], GENERAL)))
        for arm, label in (
            ("cosine-same", "re-warmed, cosine"),
            ("infinite-same", "constant rate of the trunk"),
            ("infinite-same-batch", "constant rate and batch of the trunk"),
            ("branch", "branch of the trunk, annealed"),
        )
    ]
    return [
        Table(
            "Change of the loss within each stage, from the model that the stage continued (no replay; stage 2 of the "
            "infinite chain is not annealed, so only the ends of stage 3 compare):",
            ("schedule", "stage", "general", "german", "code"),
            rows,
        ),
        Table("The same text again:", ("continued by", "highest look", "end"), same),
    ]


def _panels(results: Results) -> list[figures.Panel]:
    def both(stage: str) -> dict[str, Any]:
        return {"repeated cosine": results[f"cosine-{stage}"], "infinite": results[f"infinite-{stage}"]}

    return [
        partial(figures.rises, arms=both("2"), name=GENERAL, title="stage 2 (german): general"),
        partial(figures.rises, arms=both("3"), name=GENERAL, title="stage 3 (code): general"),
        partial(figures.rises, arms=both("same"), name=GENERAL, title="the same text again"),
    ]


FINDING = Finding("infinite", "Infinite schedules", CLAIMS, arms, measure)
