"""Row 2: replay of 0 to 50 % under a weak and a strong shift, and the control arm that saw both texts at once.

base(general) ──┬─> german  0, 1, 5, 10, 25, 50 % of general   strong shift
                └─> python  0, 1, 5, 25, 50 % of general       weak shift
union(general + german), union(general + python), from scratch
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import percent, words
from science import figures
from science.arms import Arm
from science.claims import Above, Below, Claim, Within
from science.corpora import GENERAL, GERMAN, PYTHON
from science.finding import Finding, Measured, Results, Table
from science.recipes import Setting, base, continued, union
from science.results import change, contrast, share_removed

PAPER = "Ibrahim et al. 2024, 2403.08763"
MARGIN = 0.05
RATIOS = {GERMAN: (0, 1, 5, 10, 25, 50), PYTHON: (0, 1, 5, 25, 50)}
# Table 2 of the paper: replay in percent -> loss on Pile, loss on the new text.
PUBLISHED = {
    GERMAN: {0: (3.56, 1.11), 1: (2.83, 1.12), 5: (2.57, 1.12), 10: (2.46, 1.13), 25: (2.33, 1.16), 50: (2.24, 1.22)},
    PYTHON: {0: (2.44, 2.50), 1: (2.26, 2.50), 5: (2.23, 2.51), 50: (2.16, 2.54)},
}
PUBLISHED_BASE = 2.17

CLAIMS = (
    Claim(
        "strong-order",
        "Strong shift: the more replay, the less forgetting; each step 0, 1, 5, 10, 25, 50 % lowers the final loss on "
        "the old text.",
        f"{PAPER}, table 2 (German)",
        Below(),
        "3.56, 2.83, 2.57, 2.46, 2.33, 2.24",
    ),
    Claim(
        "weak-order",
        "Weak shift: each step 0, 1, 5, 25, 50 % lowers the final loss on the old text.",
        f"{PAPER}, table 2 (SlimPajama)",
        Below(),
        "2.44, 2.26, 2.23, –, 2.16",
    ),
    Claim(
        "strong-half",
        "Strong shift: 5 % of replay removes more than half of the forgetting.",
        f"{PAPER}, table 2 (German)",
        Above(0.5),
        "71 %",
    ),
    Claim(
        "strong-most",
        "Strong shift: 25 % of replay removes more than three quarters of the forgetting.",
        f"{PAPER}, table 2 (German)",
        Above(0.75),
        "88 %",
    ),
    Claim(
        "gain-flat",
        f"Up to 10 % replay costs hardly any of the gain: final losses on the new text within {MARGIN} nats per token "
        "of those without replay.",
        f"{PAPER}, table 2",
        Within(-MARGIN, MARGIN),
        "+0.01 to +0.02",
    ),
    Claim(
        "gain-half",
        "Half replay costs gain: the final loss on the new text is higher than without replay.",
        f"{PAPER}, table 2",
        Above(),
        "+0.11 (German), +0.04 (SlimPajama)",
    ),
    Claim(
        "union",
        f"25 % of replay is as good as training on the union from scratch: the mean of both losses is at most {MARGIN} "
        f"nats per token above the union's.",
        f"{PAPER}, table 2 (German at 25 %: 1.75 against 1.75; SlimPajama at 5 %: 2.37 against 2.35)",
        Below(MARGIN),
        "0.00; +0.02",
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    on = base(setting, seed)
    found = {
        arm(new, ratio): continued(f"{new}-r{ratio}", setting, seed, on, new, ratio=ratio / 100)
        for new, ratios in RATIOS.items()
        for ratio in ratios
    }
    return found | {f"union-{new}": union(setting, seed, new) for new in RATIOS}


def arm(new: str, ratio: int) -> str:
    return f"{new}-r{ratio}"


def measure(results: Results, setting: Setting) -> Measured:
    def order(new: str) -> dict[str, Estimate]:
        return {
            f"{less} → {more} %": contrast(results[arm(new, more)], results[arm(new, less)], GENERAL)
            for less, more in pairwise(RATIOS[new])
        }

    def removed(ratio: int) -> Estimate:
        return share_removed(results[arm(GERMAN, 0)], results[arm(GERMAN, ratio)], GENERAL)

    def cost(new: str, ratio: int) -> Estimate:
        return contrast(results[arm(new, ratio)], results[arm(new, 0)], new)

    comparisons = {
        "strong-order": order(GERMAN),
        "weak-order": order(PYTHON),
        "strong-half": {"": removed(5)},
        "strong-most": {"": removed(25)},
        "gain-flat": {
            f"{new}, {ratio} %": cost(new, ratio) for new in RATIOS for ratio in RATIOS[new] if 0 < ratio <= 10
        },
        "gain-half": {new: cost(new, 50) for new in RATIOS},
        "union": {new: contrast(results[arm(new, 25)], results[f"union-{new}"], GENERAL, new) for new in RATIOS},
    }
    return Measured(comparisons, [_table(results, new) for new in RATIOS], _panels(results))


def _table(results: Results, new: str) -> Table:
    shift = {GERMAN: "Strong shift, to German", PYTHON: "Weak shift, to another English"}[new]
    rows = []
    for ratio in RATIOS[new]:
        runs = results[arm(new, ratio)]
        forgot, share = change(runs, GENERAL), share_removed(results[arm(new, 0)], runs, GENERAL)
        published, published_share = _published(new, ratio)
        ours = percent(share) if ratio and change(results[arm(new, 0)], GENERAL).low > 0 else "–"
        rows.append((f"{ratio} %", words(forgot), ours, words(change(runs, new)), published, published_share))
    control = results[f"union-{new}"]
    against = results[arm(new, 0)]
    rows.append(
        ("union, against 0 %", words(contrast(control, against, GENERAL)), "–", words(contrast(control, against, new)),
         "–", "–")
    )  # fmt: skip
    return Table(
        f"{shift}. Change of the loss from the base, beside table 2 of the paper (405M parameters, losses on Pile / "
        f"new text, from {PUBLISHED_BASE}):",
        ("replay", "old text (general)", "forgetting removed", f"new text ({new})", "published", "published removed"),
        rows,
    )


def _published(new: str, ratio: int) -> tuple[str, str]:
    if ratio not in PUBLISHED[new]:
        return "–", "–"
    old, fresh = PUBLISHED[new][ratio]
    without = PUBLISHED[new][0][0]
    return f"{old} / {fresh}", f"{(without - old) / (without - PUBLISHED_BASE):.0%}" if ratio else "–"


def _panels(results: Results) -> list[figures.Panel]:
    def ladder(which: str) -> dict[str, list[tuple[str, Estimate]]]:
        return {
            new: [(f"{ratio} %", change(results[arm(new, ratio)], which or new)) for ratio in RATIOS[PYTHON]]
            for new in RATIOS
        }

    points = {
        f"{ratio} %": (change(results[arm(GERMAN, ratio)], GENERAL), change(results[arm(GERMAN, ratio)], GERMAN))
        for ratio in RATIOS[GERMAN]
    }
    return [
        partial(figures.ladder, series=ladder(GENERAL), ylabel="nats per token", title="change on the old text"),
        partial(figures.ladder, series=ladder(""), ylabel="nats per token", title="change on the new text"),
        partial(figures.plane, points=points, old=GENERAL, new=GERMAN),
    ]


FINDING = Finding("replay", "Replay", CLAIMS, arms, measure)
