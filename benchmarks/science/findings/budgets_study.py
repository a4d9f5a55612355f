"""Row 6, between budgets: the D-CPT law of a MixtureStudy, judged by a ratio, a budget and twice the largest budget.

base(general) ──┬─> study: german with 5, 10, 25, 50, 75 % of general x a quarter, half and all of the tokens;
                │          35 % held out at each budget
                ├─> 35 % for two thirds of the tokens    between two budgets
                └─> 35 % for twice the tokens            beyond them: only with --extrapolate
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import words
from rewarm_trainer.laws.answers import Prediction, Study, predicted_loss
from rewarm_trainer.study.artefact import laws_of
from science.arms import Arm
from science.claims import Above, Below, Claim, Within
from science.corpora import GENERAL, GERMAN
from science.figures import COLOURS
from science.finding import Finding, Measured, Results, Table
from science.findings.mixture_study import HELD_OUT, artefact, study_arm
from science.recipes import Setting, base, continued
from science.results import Run, contrast, over_seeds

DCPT = "Que et al. 2024, 2406.01375"
RATIOS = (0.05, 0.1, 0.25, 0.5, 0.75)
MARGIN = 0.02
LEAST_R2 = 0.95
SETS = (GENERAL, GERMAN)

CLAIMS = (
    Claim(
        "fit",
        f"The law in ratio and tokens fits the fifteen runs of a study with an R2 above {LEAST_R2}, on old and new "
        "text.",
        DCPT,
        Above(LEAST_R2),
        "0.997 (general), 0.980 (domain)",
    ),
    Claim(
        "ratio",
        f"It predicts the loss at a ratio that it never saw ({HELD_OUT:.0%}) within {MARGIN:.0%}, at each budget, on "
        "old and new text.",
        DCPT,
        Within(-MARGIN, MARGIN),
        "R2 0.972 (domain)",
    ),
    Claim(
        "between",
        f"And at a budget between two measured ones, where neither ratio nor budget was seen, within {MARGIN:.0%}.",
        f"{DCPT}, held-out data size",
        Within(-MARGIN, MARGIN),
        "R2 0.913 (domain)",
    ),
    Claim(
        "beyond",
        f"And at twice the largest budget (asked with --extrapolate), within {MARGIN:.0%}.",
        f"{DCPT}, held-out data size",
        Within(-MARGIN, MARGIN),
        "R2 0.913 (domain)",
    ),
    Claim(
        "new-falls",
        "What the law requires of the new text holds: at every ratio four times the tokens lower its loss.",
        f"{DCPT}, requirement dL/dD < 0",
        Below(),
    ),
    Claim(
        "old-falls",
        "And of the old text: at every ratio four times the tokens lower its loss.",
        f"{DCPT}, requirement dL/dD < 0",
        Below(),
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    def alone(name: str, tokens: int) -> Arm:
        longer = replace(setting, tokens=tokens)
        return continued(name, longer, seed, base(setting, seed), GERMAN, ratio=HELD_OUT)

    run = continued("child", setting, seed, base(setting, seed), GERMAN, ratio=HELD_OUT)
    budgets = [setting.tokens // 4, setting.tokens // 2, setting.tokens]
    return {
        "study": study_arm("study-budgets", seed, run, RATIOS, budgets),
        "between": alone("between-budgets", setting.tokens * 2 // 3),
        "beyond": alone("beyond-budgets", setting.tokens * 2),
    }


@dataclass(frozen=True)
class Place:
    """A run that the law never saw: what it says there, and what was measured."""

    said: Prediction
    measured: float

    @property
    def error(self) -> float:
        return (self.said.loss - self.measured) / self.measured


@cache
def laws(folder: Path) -> Study:
    """Fitted again from the measurements in the artefact: the same law each time."""
    return laws_of(artefact(Run(folder)))


def predicted(study: Run, name: str, tokens: int, measured: float) -> Place:
    """By the law in ratio and tokens alone, also where a budget has a law of its own."""
    (model,) = artefact(study)["models"]
    found = laws(study.folder)
    only = replace(found, sets={key: replace(each, by_place={}) for key, each in found.sets.items()})
    said = predicted_loss(only, name, 1 - HELD_OUT, tokens, model["parameters"], extrapolate=True)
    return Place(said, measured)


def children(study: Run, ratio: float) -> list[dict[str, Any]]:
    """The runs of a study at one ratio, from the smallest budget to the largest."""
    return sorted(
        (run for run in artefact(study)["runs"] if run["replay_ratio"] == ratio), key=lambda run: run["tokens"]
    )


def places(results: Results, name: str) -> Iterator[tuple[str, str, list[Place]]]:
    """Claim, budget in words, and the place of each seed."""
    for nth in range(len(children(results["study"][0], HELD_OUT))):
        runs = [children(study, HELD_OUT)[nth] for study in results["study"]]
        found = [
            predicted(study, name, run["tokens"], run["losses"][name])
            for study, run in zip(results["study"], runs, strict=True)
        ]
        yield "ratio", budget(runs[0]["tokens"]), found
    for arm in ("between", "beyond"):
        pairs = zip(results["study"], results[arm], strict=True)
        found = [predicted(study, name, run.tokens, final_loss(run, name)) for study, run in pairs]
        yield arm, budget(results[arm][0].tokens), found


def final_loss(run: Run, name: str) -> float:
    final = run.final(name)
    return float(final.final.sum() / final.labels.sum())


def budget(tokens: int) -> str:
    return f"{tokens / 1e3:.0f}K tokens"


def measure(results: Results, setting: Setting) -> Measured:
    comparisons: dict[str, dict[str, Estimate]] = {claim.key: {} for claim in CLAIMS}
    rows = []
    for name in SETS:
        fits = [artefact(study)["laws"][name]["dcpt"]["fit"]["r2"] for study in results["study"]]
        comparisons["fit"][name] = over_seeds(fits)
        for claim, where, found in places(results, name):
            comparisons[claim][f"{name}, {where}"] = over_seeds([place.error for place in found])
            for seed, place in zip(setting.seeds, found, strict=True):
                rows.append((name, where, str(seed), _said(place.said), f"{place.measured:.4f}"))
    for claim, name in (("new-falls", GERMAN), ("old-falls", GENERAL)):
        comparisons[claim] = {f"{ratio:.0%}": _longer(results, ratio, name) for ratio in RATIOS}
    title = f"Loss at {HELD_OUT:.0%} of replay, in nats per token; the interval is for one more run:"
    table = Table(title, ("set", "budget", "seed", "law", "measured"), rows)
    return Measured(comparisons, [table], [partial(_panel, results=results, name=name) for name in SETS])


def _said(said: Prediction) -> str:
    if said.low is None or said.high is None:
        return f"{said.loss:.3f}"
    return words(Estimate(said.loss, said.low, said.high))


def _longer(results: Results, ratio: float, name: str) -> Estimate:
    """Loss after the largest budget minus loss after the smallest, at one ratio."""

    def runs(which: int) -> list[Run]:
        return [Run(study.folder / "runs" / children(study, ratio)[which]["label"]) for study in results["study"]]

    return contrast(runs(-1), runs(0), name)


def _panel(axes: Axes, results: Results, name: str) -> None:
    """The first seed: measured runs, and the law's curve through each budget."""
    study = results["study"][0]
    surface = laws(study.folder).sets[name].surface
    (model,) = artefact(study)["models"]
    own = laws(study.folder).sets[name].own_share
    measured = [(ratio, children(study, ratio)) for ratio in (*RATIOS, HELD_OUT)]
    for nth, colour in zip(range(len(measured[0][1])), COLOURS, strict=False):
        tokens = measured[0][1][nth]["tokens"]
        for ratio, runs in measured:
            marker = "x" if ratio == HELD_OUT else "o"
            axes.plot([ratio], [runs[nth]["losses"][name]], marker, color=colour, markersize=5)
        if surface is not None:
            ratios = [RATIOS[0] + (RATIOS[-1] - RATIOS[0]) * step / 60 for step in range(61)]
            curve = [surface.law(model["parameters"], tokens, own(1 - ratio)) for ratio in ratios]
            axes.plot(ratios, curve, color=colour, linewidth=0.9, label=budget(tokens))
    axes.set(xlabel="replay ratio", ylabel="nats per token", title=f"{name}, seed 1: law (line), held out (x)")
    axes.legend(fontsize=7, frameon=False)


FINDING = Finding("study-budgets", "Mixture study over three budgets", CLAIMS, arms, measure)
