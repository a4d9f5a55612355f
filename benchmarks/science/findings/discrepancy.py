"""Row 9: rows go where a model is furthest behind its teacher.

base(general, code, python) ──┬─> german with 10 % replay of the three: even | by discrepancy | without smoothing
                              └─> the three again: even | by discrepancy from a teacher that saw three times as much

The published student knows every domain a little and its teacher knows them better; a base that has never seen a text
is behind by a factor of a hundred, and no rule is tested by that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rewarm_bench.pages import words
from science import figures
from science.arms import Arm, Checkpoint
from science.claims import Above, Below, Claim
from science.corpora import CODE, GENERAL, GERMAN, PYTHON
from science.finding import Finding, Measured, Results, Table
from science.recipes import Setting, continued, mixed, source
from science.results import Run, Runs, change, contrast, decisions, mean_weight, over_seeds

DDK = "Liu et al. 2024, 2407.16154 (DDK)"
TEXTS = (GENERAL, CODE, PYTHON)
FIXED_TEXT = CODE
"""What the figure shows; named before the runs."""
REPLAY = {"old-even": "even", "old-moved": "by discrepancy", "old-unsmoothed": "without smoothing"}
CORPUS = {"more-even": "even", "more-moved": "by discrepancy"}
TAUGHT = 3

CLAIMS = (
    Claim(
        "old-mean",
        "Replay weighed by discrepancy from the base (teacher = base) ends with a lower mean loss over the three old "
        "texts than even replay of as many rows.",
        f"{DDK}, ablation: equal sampling against the method",
        Below(),
        "55.01 → 57.46 points, with distillation",
    ),
    Claim(
        "old-spread",
        "The old texts are forgotten more evenly: the largest rise less the smallest shrinks, seed by seed.",
        f"{DDK}: domains with the larger gap get more rows",
        Below(),
    ),
    Claim(
        "old-smoothing",
        "Without smoothing the mean loss over the old texts is higher than with it.",
        f"{DDK}, ablation",
        Above(),
        "57.46 → 56.56 points",
    ),
    Claim(
        "more-mean",
        f"In the corpus, the gap to a teacher that saw {TAUGHT} times as much weighs three texts so that their mean "
        "loss ends lower than with even weights.",
        f"{DDK}, ablation: equal sampling against the method",
        Below(),
        "55.01 → 57.46 points, with distillation",
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    on = mixed(setting, seed, TEXTS)
    weighted = [{**source(each), "weight": 1} for each in TEXTS]
    plain = [source(each) for each in TEXTS]

    def replayed(name: str, lines: Mapping[str, Any]) -> Arm:
        return continued(f"ddk-{name}", setting, seed, on, GERMAN, ratio=0.1, retained=TEXTS, lines=lines)

    def learned(name: str, own: Setting, lines: Mapping[str, Any]) -> Arm:
        return continued(f"ddk-{name}", own, seed, on, GENERAL, retained=(), lines=lines)

    longer = dataclasses.replace(setting, tokens=TAUGHT * setting.tokens)
    teacher = learned("teacher", longer, {"corpus": {"sources": weighted}})
    taught = {"smoothing": 0.5, "teacher": {"file": {"path": Checkpoint(teacher)}}}
    return {
        "old-even": replayed("old-even", {"replay": {"sources": weighted}}),
        "old-moved": replayed("old-moved", _moved({"smoothing": 0.5})),
        "old-unsmoothed": replayed("old-unsmoothed", _moved({"smoothing": 0})),
        "more-even": learned("more-even", setting, {"corpus": {"sources": weighted}}),
        "more-moved": learned("more-moved", setting, {"corpus": {"sources": plain}, **_moved(taught)}),
    }


def _moved(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {"mixture": {"every": "5%", "domainDiscrepancy": dict(rule)}}


def behind(runs: Runs, texts: Sequence[str], which: int) -> str:
    """Perplexity over the teacher's at one decision, mean over seeds; nothing without decisions."""
    ratios = [moved[which]["ratios"] for moved in map(decisions, runs) if moved and "ratios" in moved[which]]
    return (
        ", ".join(f"{name} {sum(each[name] for each in ratios) / len(ratios):.2f}" for name in texts) if ratios else "–"
    )


def spread(run: Run) -> float:
    """The largest rise of an old text less the smallest."""
    rises = [change([run], name).value for name in TEXTS]
    return max(rises) - min(rises)


def measure(results: Results, setting: Setting) -> Measured:
    even, moved = results["old-even"], results["old-moved"]
    comparisons = {
        "old-mean": {"": contrast(moved, even, *TEXTS)},
        "old-spread": {"": over_seeds([spread(one) - spread(other) for one, other in zip(moved, even, strict=True)])},
        "old-smoothing": {"": contrast(results["old-unsmoothed"], moved, *TEXTS)},
        "more-mean": {"": contrast(results["more-moved"], results["more-even"], *TEXTS)},
    }
    tables = [
        _table("10 % of replay of three old texts", REPLAY, results, (*TEXTS, GERMAN)),
        _table("The three texts again", CORPUS, results, TEXTS),
    ]
    panels = [
        partial(
            figures.rises, arms={label: results[name] for name, label in named.items()}, name=FIXED_TEXT, title=title
        )
        for named, title in ((REPLAY, f"replayed: {FIXED_TEXT}"), (CORPUS, f"trained on: {FIXED_TEXT}"))
    ]
    return Measured(comparisons, tables, panels)


def _table(title: str, named: Mapping[str, str], results: Results, sets: tuple[str, ...]) -> Table:
    rows = [
        (
            label,
            *(words(change(results[name], each)) for each in sets),
            ", ".join(mean_weight(results[name], each, TEXTS) for each in TEXTS),
            behind(results[name], TEXTS, 0),
            behind(results[name], TEXTS, -1),
        )
        for name, label in named.items()
    ]
    told = (
        "Change of the loss from the base; mean weights over all decisions; perplexity over the teacher's at the first"
    )
    return Table(f"{title}. {told} and at the last:", ("weights", *sets, "mean weight", "first", "last"), rows)


FINDING = Finding("discrepancy", "Weights by domain discrepancy", CLAIMS, arms, measure)
