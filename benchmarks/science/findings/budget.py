"""Row 9: a forgetting budget holds the ratio, from wherever it starts.

base(general) ──> german, replay.adaptive with a budget:  from 1 % | from 50 %      beside fixed 1, 25 and 50 %
              └─> the same, four times as long:           from 1 % | from 50 %
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import percent, words
from science import figures
from science.arms import Arm
from science.claims import Above, Below, Claim, Within
from science.corpora import GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.findings.replay import arm
from science.recipes import Setting, base, continued
from science.results import Runs, change, over_seeds

OURS = "ours: no paper gives a law for a forgetting budget (docs/controllers.md)"
BUDGET, FLOOR = 0.5, 0.5
STARTS = {"from-1": 0.01, "from-50": 0.5}
LONG = 4
LONG_STARTS = {f"{name}-long": ratio for name, ratio in STARTS.items()}
FIXED = {arm(GERMAN, 1): 0.01, arm(GERMAN, 25): 0.25, arm(GERMAN, 50): 0.5}

CLAIMS = (
    Claim(
        "kept",
        f"A budget of {BUDGET} nats per token is kept from either start: forgetting ends at most a fifth above it.",
        OURS,
        Below(1.2 * BUDGET),
    ),
    Claim(
        "used",
        "It is used: from a start of 50 % the run ends with more than a quarter of the budget, not with none.",
        OURS,
        Above(0.25 * BUDGET),
    ),
    Claim("up", "From 1 % the ratio rises: more than 2 % was replayed in the end.", OURS, Above(0.02)),
    Claim("down", "From 50 % it falls: less than 45 % was replayed in the end.", OURS, Below(0.45)),
    Claim(
        "band",
        f"{LONG} times as long, either start ends in the band: from half of the budget to all of it, a fifth of slack "
        "beside both.",
        OURS,
        Within(0.8 * FLOOR * BUDGET, 1.2 * BUDGET),
    ),
    Claim(
        "down-long",
        f"{LONG} times as long, it falls from 50 %: less than 45 % was replayed in the end.",
        OURS,
        Below(0.45),
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    go = partial(continued, setting=setting, seed=seed, on=base(setting, seed), new=GERMAN)
    adaptive = {"forgettingBudget": BUDGET, "minimum": "1%", "maximum": "50%"}
    lines = {"replay": {"adaptive": adaptive}, "evaluation": {"every": "5%"}}
    longer = replace(setting, tokens=LONG * setting.tokens)
    return {
        **{name: go(f"budget-{name}", ratio=ratio, lines=lines) for name, ratio in STARTS.items()},
        **{name: go(f"budget-{name}", setting=longer, ratio=ratio, lines=lines) for name, ratio in LONG_STARTS.items()},
        **{name: go(name, ratio=ratio) for name, ratio in FIXED.items()},
    }


def replayed(runs: Runs) -> Estimate:
    """Share of replay in all that was trained."""
    shares = (run.report().get("replay", {}).get("realized", 0.0) for run in runs)
    return over_seeds([float(share) for share in shares])


def measure(results: Results, setting: Setting) -> Measured:
    comparisons = {
        "kept": {f"from {ratio:.0%}": change(results[name], GENERAL) for name, ratio in STARTS.items()},
        "used": {"": change(results["from-50"], GENERAL)},
        "up": {"": replayed(results["from-1"])},
        "down": {"": replayed(results["from-50"])},
        "band": {f"from {ratio:.0%}": change(results[name], GENERAL) for name, ratio in LONG_STARTS.items()},
        "down-long": {"": replayed(results["from-50-long"])},
    }
    labels = {name: f"budget, from {ratio:.0%}" for name, ratio in STARTS.items()}
    labels |= {name: f"budget, from {ratio:.0%}, {LONG} times as long" for name, ratio in LONG_STARTS.items()}
    labels |= {name: f"fixed {ratio:.0%}" for name, ratio in FIXED.items()}
    rows = [
        (label, words(change(results[name], GENERAL)), percent(replayed(results[name])),
         words(change(results[name], GERMAN)))
        for name, label in labels.items()
    ]  # fmt: skip
    table = Table(
        f"A budget of {BUDGET} nats per token, bounds of 1 and 50 %. Change of the loss from the base:",
        ("replay", "old text (general)", "replayed in all", "new text (german)"),
        rows,
    )
    panels = [
        partial(figures.rises, arms={labels[name]: results[name] for name in names}, name=GENERAL, title=title)
        for names, title in (((*STARTS, *FIXED), "old text"), (LONG_STARTS, f"old text, {LONG} times as long"))
    ]
    return Measured(comparisons, [table], panels)


FINDING = Finding("budget", "A forgetting budget", CLAIMS, arms, measure)
