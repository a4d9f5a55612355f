"""Row 6: a MixtureStudy over five ratios, judged by a ratio that it never saw.

base(general) ──> study: german with 0, 10, 25, 50, 75 % of general; law fitted; 35 % held out
             └──> the same with 5 % in the place of 0
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import percent, words
from science.arms import Arm
from science.claims import AFTERWARDS, Above, Below, Claim, Within
from science.corpora import GENERAL, GERMAN
from science.figures import COLOURS
from science.finding import Finding, Measured, Results, Table
from science.recipes import Setting, base, constant, continued
from science.results import Run, over_seeds, share_of_runs

CMR = "Gu et al. 2024, 2407.17467, equation 5.1"
HELD_OUT = 0.35
WITH_ZERO, WITHOUT_ZERO = (0, 0.1, 0.25, 0.5, 0.75), (0.05, 0.1, 0.25, 0.5, 0.75)
MARGIN = 0.01


def claims(paper: str, prefix: str = "") -> tuple[Claim, ...]:
    """`prefix`: of the sentences that were not yet written down, or not like this, when the finding ran."""
    return (
        Claim(
            "predicted",
            f"The law in the ratio, fitted to five ratios, predicts the losses of a sixth within {MARGIN:.0%}, on old "
            "and new text.",
            paper,
            Within(-MARGIN, MARGIN),
            "0.0003 to 0.0008 nats of 1.3 to 1.6 (table 2)",
        ),
        Claim(
            "covered",
            f"{prefix}Its 95 % interval for one more run holds what that run measured: on both sets in more than half "
            "of all seeds.",
            "a promise of ours (docs/studies.md)",
            Above(0.5),
        ),
        Claim(
            "narrow",
            f"{prefix}It says something: its reach to either side is below a tenth of the loss.",
            "a promise of ours (docs/studies.md)",
            Below(0.1),
        ),
    )


def arms(setting: Setting, seed: int, ratios: Sequence[float]) -> Mapping[str, Arm]:
    run = continued("child", setting, seed, base(setting, seed), GERMAN, ratio=0.5, schedule=constant(setting, 0.5))
    return {"study": study_arm("study", seed, run, ratios, [setting.tokens])}


def study_arm(name: str, seed: int, run: Arm, ratios: Sequence[float], budgets: Sequence[int]) -> Arm:
    """A study whose template is `run`; the ratio HELD_OUT is trained at each budget and never fitted."""
    template = {key: value for key, value in run.spec.items() if key not in ("budget", "replay")}
    template["replay"] = {key: value for key, value in run.spec["replay"].items() if key != "ratio"}
    spec = {
        "template": {"spec": template},
        "grid": {"replayRatios": list(ratios), "budgets": list(budgets)},
        "holdOut": {"replayRatios": [HELD_OUT]},
        "parallelism": 1,
    }
    return Arm(f"{name}-s{seed}", spec, kind="MixtureStudy", verb="study")


def artefact(run: Run) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run.folder / "study.json").read_text())
    return value


def held_out(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each set with what the law said of the held-out run, and what it measured."""
    for answer in artefact(run)["answers"]["held_out"]:
        yield from answer["sets"].items()


def errors(results: Results, name: str) -> Estimate:
    """(predicted - measured) / measured, over seeds."""
    found = [dict(held_out(run))[name] for run in results["study"]]
    return over_seeds([(each["loss"] - each["measured"]) / each["measured"] for each in found])


def covers(run: Run) -> bool:
    """Whether the intervals of all sets hold the measured losses."""
    return all(each["low"] <= each["measured"] <= each["high"] for _, each in held_out(run))


def reach(results: Results, name: str) -> Estimate:
    """Half the width of the interval as a share of the predicted loss, over seeds."""
    found = [dict(held_out(run))[name] for run in results["study"]]
    return over_seeds([(each["high"] - each["low"]) / 2 / each["loss"] for each in found])


def measure(results: Results, setting: Setting) -> Measured:
    comparisons = {
        "predicted": {name: errors(results, name) for name in (GENERAL, GERMAN)},
        "covered": {"": share_of_runs(results["study"], covers)},
        "narrow": {name: reach(results, name) for name in (GENERAL, GERMAN)},
    }
    rows = []
    for seed, run in zip(setting.seeds, results["study"], strict=True):
        for name, each in held_out(run):
            predicted = Estimate(each["loss"], each["low"], each["high"])
            rows.append((str(seed), name, words(predicted), f"{each['measured']:.4f}"))
    answers = []
    for seed, run in zip(setting.seeds, results["study"], strict=True):
        for each in artefact(run)["answers"]["largest_share"]:
            ratio = each["replay_ratio"]
            shown = "none keeps it" if ratio is None else percent(Estimate(ratio, *_span(each)), 0)
            answers.append((str(seed), str(each["tolerance"]), shown))
    tables = [
        Table(f"Loss at {HELD_OUT:.0%} of replay, in nats per token:", ("seed", "set", "law", "measured"), rows),
        Table("Least replay under the tolerance:", ("seed", "tolerance on old text", "replay"), answers),
    ]
    return Measured(comparisons, tables, [partial(_panel, results=results, name=name) for name in (GENERAL, GERMAN)])


def _span(answer: Mapping[str, Any]) -> tuple[float, float]:
    """The interval of a replay ratio, where its share of new text has one."""
    low, high = answer["low"], answer["high"]
    return (math.nan if high is None else 1 - high, math.nan if low is None else 1 - low)


def _panel(axes: Axes, results: Results, name: str) -> None:
    for colour, run in zip(COLOURS, results["study"], strict=False):
        points = sorted((each["replay_ratio"], each["losses"][name]) for each in artefact(run)["runs"])
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, linewidth=0.8)
        said = dict(held_out(run))[name]
        axes.plot([HELD_OUT], [said["loss"]], marker="x", color=colour, markersize=8)
    axes.set(xlabel="replay ratio", ylabel="nats per token", title=f"{name}: measured (o), predicted (x)")


FINDING = Finding("study", "Mixture study", claims(CMR, AFTERWARDS), partial(arms, ratios=WITH_ZERO), measure)
INSIDE = Finding(
    "study-inside",
    "Mixture study without the ratio 0",
    claims(f"{CMR}; between 0 and a twentieth of replay our losses fall off a cliff that its power law cannot have"),
    partial(arms, ratios=WITHOUT_ZERO),
    measure,
)
