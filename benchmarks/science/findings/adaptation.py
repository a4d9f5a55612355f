"""Row 10: LoRA beside full training, and rows weighed by their loss: every arm on the plane of old against new text.

base(general) ──> german without replay:  full at peaks 1, 1/4 | LoRA of rank 8 at peaks 1, 3, 10 | LinUpper weights
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import words
from science import figures
from science.arms import Arm
from science.claims import AFTERWARDS, Above, Below, Claim
from science.corpora import GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.findings import experience, replay, weights
from science.findings.replay import arm
from science.recipes import Setting, base, continued, cosine
from science.results import change, contrast

BIDERMAN = "Biderman et al. 2024, 2405.09673"
FULL = arm(GERMAN, 0)
LORA = {"lora-1": 1.0, "lora-3": 3.0, "lora-10": 10.0}
MARGIN = 0.05
LABELS = {
    FULL: "full, peak 1",
    "full-1/4": "full, peak 1/4",
    "lora-1": "LoRA rank 8, peak 1",
    "lora-3": "LoRA rank 8, peak 3",
    "lora-10": "LoRA rank 8, peak 10",
    "weighted": "full, LinUpper weights",
}
ELSEWHERE = {
    arm(GERMAN, 1): "1 % replay",
    arm(GERMAN, 5): "5 % replay",
    arm(GERMAN, 25): "25 % replay",
    "back-50": "half way back to the base",
    "reptile-0.2": "25 % replay, Reptile 0.2",
}
"""Arms of other findings, for the plane."""

CLAIMS = (
    Claim("less-learned", "LoRA learns less of the new text than full training at its own peak.", BIDERMAN, Above(),
          "learns less"),
    Claim("less-forgotten", "And it forgets less of the old text.", BIDERMAN, Below(), "forgets less"),
    Claim(
        "dominated",
        "Replay dominates: with 5 % of it full training learns more and forgets less than LoRA at its highest peak.",
        "expected, measured in no paper",
        Below(),
    ),
    Claim(
        "weighted",
        f"{AFTERWARDS}Weighing down the rows of low loss (LinUpper) costs less than {MARGIN} nats per token on the new "
        "text.",
        "2502.06733: LinUpper is at least as good as uniform weights",
        Below(MARGIN),
        "at least as good",
    ),
)  # fmt: skip


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    go = partial(continued, setting=setting, seed=seed, on=base(setting, seed), new=GERMAN)
    lora: dict[str, Any] = {"training": {"adaptation": "LoRA", "lora": {"rank": 8, "alpha": 16}}}
    elsewhere = [other.arms(setting, seed) for other in (replay.FINDING, weights.FINDING, experience.FINDING)]
    weighted = {"training": {"sampleWeights": {"strategy": "LinUpper", "temperature": 1, "uniform": "5%"}}}
    return {
        FULL: go(FULL),
        "full-1/4": go("peak-25", schedule=cosine(setting, 0.25)),
        **{name: go(name, schedule=cosine(setting, peak), lines=lora) for name, peak in LORA.items()},
        "weighted": go("weighted", lines=weighted),
        **{name: arms[name] for arms in elsewhere for name in ELSEWHERE if name in arms},
    }


def measure(results: Results, setting: Setting) -> Measured:
    def against_full(text: str) -> dict[str, Estimate]:
        return {LABELS[name]: contrast(results[name], results[FULL], text) for name in LORA}

    comparisons = {
        "less-learned": against_full(GERMAN),
        "less-forgotten": against_full(GENERAL),
        "dominated": {text: contrast(results[arm(GERMAN, 5)], results["lora-10"], text) for text in (GENERAL, GERMAN)},
        "weighted": {"": contrast(results["weighted"], results[FULL], GERMAN)},
    }
    everything = LABELS | ELSEWHERE
    found = {
        label: (change(results[name], GENERAL), change(results[name], GERMAN)) for name, label in everything.items()
    }
    table = Table(
        "Change of the loss from the base, equal tokens, no replay unless it says so:",
        ("arm", "old text (general)", "new text (german)"),
        [(label, words(old), words(new)) for label, (old, new) in found.items()],
    )
    return Measured(comparisons, [table], [partial(figures.plane, points=found, old=GENERAL, new=GERMAN)])


FINDING = Finding("adaptation", "LoRA and sample weights", CLAIMS, arms, measure)
