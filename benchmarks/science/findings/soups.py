"""Row 8: soups of data orders, and averages where the rate has decayed.

base(general) ──┬─> german with 25 % replay, decayed, in three data orders ──> their soup, uniform | greedy
                ├─> the first of them, averaged over its last five checkpoints
                └─> german at a constant rate, averaged over its last five: SMA | EMA
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import words
from science import figures
from science.arms import Arm
from science.claims import Below, Claim, Within
from science.corpora import GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.recipes import Setting, base, constant, continued
from science.results import Runs, change, contrast, contrast_to_mean, over_seeds

OLMO = "OLMo 2 2025, 2501.00656; Wortsman et al. 2022, 2203.05482"
LAWA = "Sanyal et al. 2023, 2306.03241"
ORDERS = ("order-1", "order-2", "order-3")
LABELS = {
    **{name: f"data order {name[-1]}" for name in ORDERS},
    "uniform": "their uniform soup",
    "greedy": "their greedy soup (documents that did not choose it)",
    "decayed-sma": "data order 1, mean of its last five",
    "constant": "constant rate",
    "constant-sma": "constant rate, SMA of the last five",
    "constant-ema": "constant rate, EMA of the last five",
}
MARGIN = 0.02

CLAIMS = (
    Claim(
        "soup-new",
        "The uniform soup of three data orders has a lower loss on the new text than its ingredients on average.",
        OLMO,
        Below(),
        "soups of three or four anneals",
    ),
    Claim("soup-old", "On the old text as well.", OLMO, Below()),
    Claim(
        "decayed",
        f"After a full decay an average over the last five checkpoints gains nothing: within {MARGIN} nats per token "
        "of the last on the new text.",
        f"{LAWA}: the gain is at high rates",
        Within(-MARGIN, MARGIN),
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    go = partial(continued, setting=setting, seed=seed, on=base(setting, seed), new=GERMAN, ratio=0.25)
    # Data orders follow the seed of a run; those of another seed of the finding are others.
    orders = {
        name: go(f"soup-{name}", lines={"training": {"seed": 10 * seed + number}})
        for number, name in enumerate(ORDERS, start=1)
    }
    others = [{"path": orders[name]} for name in ORDERS[1:]]

    def finished(name: str, step: Mapping[str, Any], flat: bool = False) -> Arm:
        lines = {
            "training": {"seed": 10 * seed + 1},
            "checkpoints": {"every": "5%"},
            **({"finish": [dict(step)]} if step else {}),
        }
        return go(f"soup-{name}", schedule=constant(setting, 1.0) if flat else None, lines=lines)

    return {
        **orders,
        "uniform": finished("uniform", {"soup": {"runs": others, "kind": "Uniform"}}),
        "greedy": finished("greedy", {"soup": {"runs": others, "kind": "Greedy"}}),
        "decayed-sma": finished("decayed-sma", {"average": {"last": 5}}),
        "constant": finished("constant", {}, flat=True),
        "constant-sma": finished("constant-sma", {"average": {"last": 5}}, flat=True),
        "constant-ema": finished("constant-ema", {"average": {"last": 5, "kind": "EMA", "alpha": 0.2}}, flat=True),
    }


def judged(runs: Runs, name: str) -> Estimate:
    """Change by the runs' own reports: a greedy soup is judged on the documents that did not choose it."""
    return over_seeds([float(run.report()["sets"][name]["delta"]["mean"]) for run in runs])


def measure(results: Results, setting: Setting) -> Measured:
    ingredients = [results[name] for name in ORDERS]
    comparisons = {
        "soup-new": {"": contrast_to_mean(results["uniform"], ingredients, GERMAN)},
        "soup-old": {"": contrast_to_mean(results["uniform"], ingredients, GENERAL)},
        "decayed": {"": contrast(results["decayed-sma"], results["order-1"], GERMAN)},
    }
    ways = {name: judged if name == "greedy" else change for name in LABELS}
    found = {
        label: (ways[name](results[name], GENERAL), ways[name](results[name], GERMAN)) for name, label in LABELS.items()
    }
    table = Table(
        "Change of the loss from the base:",
        ("model", "old text (general)", "new text (german)"),
        [(label, words(old), words(new)) for label, (old, new) in found.items()],
    )
    return Measured(comparisons, [table], [partial(figures.plane, points=found, old=GENERAL, new=GERMAN)])


FINDING = Finding("soups", "Soups and averages", CLAIMS, arms, measure)
