"""Row 8: models made of models, by `finish:`.

base(general) ──┬─> german without replay, then interpolated 30, 50, 70 % of the way back to the base
                └─> german at a constant rate, alone or averaged over its last five checkpoints
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import percent, words
from science import figures
from science.arms import Arm
from science.claims import Above, Below, Claim
from science.corpora import GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.findings.replay import arm
from science.recipes import Setting, base, constant, continued
from science.results import change, contrast, share_removed

WISE = "Wortsman et al. 2022, 2109.01903 (WiSE-FT)"
LAWA = "2306.03241 (LAWA)"
DIAL = (0, 30, 50, 70)
RAW = arm(GERMAN, 0)

CLAIMS = (
    Claim(
        "dial-old",
        "Interpolation towards the base is a dial: each step 0, 30, 50, 70 % back lowers the loss on the old text.",
        WISE,
        Below(),
    ),
    Claim(
        "dial-new",
        "Each of these steps costs on the new text.",
        WISE,
        Above(),
    ),
    Claim(
        "half-way",
        "It is better than a straight trade: half way back removes more than half of the forgetting.",
        f"{WISE}: accuracy along the path lies above the line between its ends",
        Above(0.5),
    ),
    Claim(
        "half-kept",
        "And it gives up less than half of the gain.",
        WISE,
        Below(0.5),
    ),
    Claim(
        "average",
        "At a constant learning rate the mean of the last five checkpoints has a lower loss on the new text than the "
        "last one alone.",
        LAWA,
        Below(),
        "faster progress at high learning rates",
    ),
)


def name_of(back: int) -> str:
    return RAW if back == 0 else f"back-{back}"


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    go = partial(continued, setting=setting, seed=seed, on=base(setting, seed), new=GERMAN)
    every = {"checkpoints": {"every": "5%"}}
    return {
        **{
            name_of(back): go(
                name_of(back), lines={"finish": [{"interpolate": {"towardsBase": back / 100}}]} if back else {}
            )
            for back in DIAL
        },
        "constant": go("constant", schedule=constant(setting, 1.0), lines=every),
        "average": go(
            "average", schedule=constant(setting, 1.0), lines={**every, "finish": [{"average": {"last": 5}}]}
        ),
    }


def measure(results: Results, setting: Setting) -> Measured:
    def steps(text: str) -> dict[str, Estimate]:
        return {
            f"{less} → {more} %": contrast(results[name_of(more)], results[name_of(less)], text)
            for less, more in pairwise(DIAL)
        }

    def removed(back: int, text: str) -> Estimate:
        return share_removed(results[RAW], results[name_of(back)], text)

    comparisons = {
        "dial-old": steps(GENERAL),
        "dial-new": steps(GERMAN),
        "half-way": {"": removed(50, GENERAL)},
        "half-kept": {"": removed(50, GERMAN)},
        "average": {"": contrast(results["average"], results["constant"], GERMAN)},
    }
    dial = [
        (
            f"{back} %",
            words(change(results[name_of(back)], GENERAL)),
            percent(removed(back, GENERAL)) if back else "–",
            words(change(results[name_of(back)], GERMAN)),
            percent(removed(back, GERMAN)) if back else "–",
        )
        for back in DIAL
    ]
    means = [
        (label, words(change(results[name], GENERAL)), words(change(results[name], GERMAN)))
        for name, label in (("constant", "last checkpoint"), ("average", "mean of the last five"))
    ]
    tables = [
        Table(
            "Without replay, then part of the way back to the base. Change of the loss from the base:",
            ("way back", "old text (general)", "forgetting removed", "new text (german)", "gain given up"),
            dial,
        ),
        Table("At a constant rate:", ("model", "old text (general)", "new text (german)"), means),
    ]
    points = {
        label: (change(results[name], GENERAL), change(results[name], GERMAN))
        for label, name in [
            *((f"{back} % back", name_of(back)) for back in DIAL),
            ("constant", "constant"),
            ("average", "average"),
        ]
    }
    return Measured(comparisons, tables, [partial(figures.plane, points=points, old=GENERAL, new=GERMAN)])


FINDING = Finding("weights", "Weights: the way back, and averages", CLAIMS, arms, measure)
