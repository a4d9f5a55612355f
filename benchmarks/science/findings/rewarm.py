"""Row 1: re-warming. Warm-up length, peak, and re-warming on the text that the base already knows.

base(general) ──┬─> german   warm-up 0, 1, 5 % · peak 0.5, 1, 2 of the base's · no re-warming · optimizer kept
                └─> general  peak 1, 2 · no re-warming
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import words
from science import figures
from science.arms import Arm
from science.claims import AFTERWARDS, Above, Below, Claim, Within
from science.corpora import GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.recipes import Setting, base, constant, continued, cosine
from science.results import change, contrast, early_peak, over, peak, rise_contrast

GUPTA = "Gupta et al. 2023, 2308.04014"
IBRAHIM = "Ibrahim et al. 2024, 2403.08763"
MARGIN = 0.05

CLAIMS = (
    Claim(
        "warmup-end",
        f"The length of the warm-up (0, 1 or 5 % of the run) does not matter for the end: final losses on the new text "
        f"differ by less than {MARGIN} nats per token.",
        f"{GUPTA}; {IBRAHIM}, section 6.1.1",
        Within(-MARGIN, MARGIN),
        "no effect for 0, 0.5, 1, 2 %",
    ),
    Claim(
        "warmup-spike",
        "Without a warm-up the old text's loss first jumps higher than with a warm-up of 5 % (highest look in the "
        "first tenth of the run).",
        f"{IBRAHIM}, section 6.1.1",
        Above(),
        "a higher spike at first",
    ),
    Claim(
        "peak-new",
        "A higher peak learns the new text better: from no re-warming to half, one and two times the base's peak each "
        "step lowers the final loss on the new text.",
        f"{GUPTA}; {IBRAHIM}, table 12 (German)",
        Below(),
        "1.21, 1.13, 1.11, 1.11",
    ),
    Claim(
        "peak-old",
        "A higher peak forgets more: each of these steps raises the final loss on the old text.",
        f"{GUPTA}; {IBRAHIM}, table 12 (Pile, after German)",
        Above(),
        "3.22, 3.47, 3.56, 3.63",
    ),
    Claim(
        "same-bump",
        "Re-warming on the same text raises its loss at first: the highest look is above the base, at one and at two "
        "times the peak.",
        f"{IBRAHIM}, section 7.1",
        Above(),
        "+0.1 at 3e-4, +0.2 at 6e-4",
    ),
    Claim(
        "same-bump-control",
        f"{AFTERWARDS}The bump on the same text is more than the highest of noisy looks: it is above the highest look "
        "of the run that stays at the final rate.",
        f"{IBRAHIM}, section 7.1",
        Above(),
    ),
    Claim(
        "same-bump-size",
        "The bump on the same text grows with the peak.",
        f"{IBRAHIM}, section 7.1",
        Above(),
        "+0.1 to +0.2",
    ),
    Claim(
        "same-end",
        "Re-warming on the same text is not recovered: it ends at a higher loss than staying at the final rate.",
        f"{GUPTA}, re-warming on the same data",
        Above(),
        "only hurts, more for larger rates",
    ),
    Claim(
        "state-end",
        f"The base's optimizer state, kept or reset, does not matter for the end: final losses on the new text differ "
        f"by less than {MARGIN} nats per token.",
        f"expected: {IBRAHIM}, section 5.2 resets it, and compares neither",
        Within(-MARGIN, MARGIN),
    ),
    Claim(
        "state-spike",
        "Nor for the way: the old text's highest look in the first tenth of the run differs by less than 0.1 nats per "
        "token.",
        "expected, measured in no paper",
        Within(-0.1, 0.1),
    ),
    Claim(
        "state-old",
        f"{AFTERWARDS}With the state kept the run ends with less forgetting.",
        "found in these runs; no paper compares",
        Below(),
    ),
)

WARMUPS = {"warmup-0": "0", "peak-1": "1 %", "warmup-5": "5 %"}
PEAKS = {"constant": "no re-warming", "peak-0.5": "0.5", "peak-1": "1", "peak-2": "2"}
SAME = {"same-constant": "no re-warming", "same-1": "1", "same-2": "2"}


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    on = base(setting, seed)
    new = partial(continued, setting=setting, seed=seed, on=on, new=GERMAN)
    same = partial(continued, setting=setting, seed=seed, on=on, new=GENERAL)
    return {
        "warmup-0": new("warmup-0", schedule=cosine(setting, warmup="0%")),
        "warmup-5": new("warmup-5", schedule=cosine(setting, warmup="5%")),
        "constant": new("constant", schedule=constant(setting)),
        "peak-0.5": new("peak-half", schedule=cosine(setting, 0.5)),
        "peak-1": new("german-r0", schedule=cosine(setting)),
        "peak-2": new("peak-2", schedule=cosine(setting, 2)),
        "kept": new("state-kept", schedule={**cosine(setting), "optimizerState": "Keep"}),
        "same-constant": same("same-constant", schedule=constant(setting)),
        "same-1": same("same-1", schedule=cosine(setting)),
        "same-2": same("same-2", schedule=cosine(setting, 2)),
    }


def measure(results: Results, setting: Setting) -> Measured:
    early = early_peak(0.1)
    steps = list(pairwise(PEAKS))

    def ladder(name: str) -> dict[str, Estimate]:
        return {f"{PEAKS[low]} → {PEAKS[high]}": contrast(results[high], results[low], name) for low, high in steps}

    comparisons = {
        "warmup-end": {
            f"{WARMUPS[arm]} against 1 %": contrast(results[arm], results["peak-1"], GERMAN)
            for arm in ("warmup-0", "warmup-5")
        },
        "warmup-spike": {"0 against 5 %": rise_contrast(early, results["warmup-0"], results["warmup-5"], GENERAL)},
        "peak-new": ladder(GERMAN),
        "peak-old": ladder(GENERAL),
        "same-bump": {f"peak {SAME[arm]}": over(peak, results[arm], GENERAL) for arm in ("same-1", "same-2")},
        "same-bump-control": {
            f"peak {SAME[arm]}": rise_contrast(peak, results[arm], results["same-constant"], GENERAL)
            for arm in ("same-1", "same-2")
        },
        "state-end": {"kept against reset": contrast(results["kept"], results["peak-1"], GERMAN)},
        "state-old": {"kept against reset": contrast(results["kept"], results["peak-1"], GENERAL)},
        "state-spike": {
            "kept against reset": rise_contrast(early, results["kept"], results["peak-1"], GENERAL),
        },
        "same-bump-size": {"1 → 2": rise_contrast(peak, results["same-2"], results["same-1"], GENERAL)},
        "same-end": {
            f"peak {SAME[arm]}": contrast(results[arm], results["same-constant"], GENERAL)
            for arm in ("same-1", "same-2")
        },
    }
    return Measured(comparisons, _tables(results), _panels(results))


def _tables(results: Results) -> list[Table]:
    labels = {"warmup-0": "peak 1, warm-up 0", "warmup-5": "peak 1, warm-up 5 %"}
    labels |= {"kept": "peak 1, warm-up 1 %, optimizer kept"}
    labels |= {arm: label if arm == "constant" else f"peak {label}, warm-up 1 %" for arm, label in PEAKS.items()}
    new = [
        (label, words(change(results[arm], GERMAN)), words(change(results[arm], GENERAL)),
         words(over(early_peak(0.1), results[arm], GENERAL)))
        for arm, label in labels.items()
    ]  # fmt: skip
    same = [
        (label, words(change(results[arm], GENERAL)), words(over(peak, results[arm], GENERAL)))
        for arm, label in SAME.items()
    ]
    return [
        Table(
            "Continued on German; peaks in units of the base's own. Change of the loss from the base:",
            ("arm", "new text (german)", "old text (general)", "old text, highest early look"),
            new,
        ),
        Table("Continued on the same text:", ("peak", "general, at the end", "general, highest look"), same),
    ]


def _panels(results: Results) -> list[figures.Panel]:
    old = {PEAKS[arm]: results[arm] for arm in PEAKS}
    same = {SAME[arm]: results[arm] for arm in SAME}
    points = {PEAKS[arm]: (change(results[arm], GENERAL), change(results[arm], GERMAN)) for arm in PEAKS}
    return [
        partial(figures.rises, arms=old, name=GENERAL, title="old text, by peak"),
        partial(figures.plane, points=points, old=GENERAL, new=GERMAN),
        partial(figures.rises, arms=same, name=GENERAL, title="the same text again, by peak"),
    ]


FINDING = Finding("rewarm", "Re-warming", CLAIMS, arms, measure)
