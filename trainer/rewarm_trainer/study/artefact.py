"""study.json, version 1: what was measured, the laws fitted to it, and their answers. Adding names is allowed.

Everything that a citation needs stands in the file: a law is fitted again from its measurements, so that it can be
asked about other tolerances and budgets. Shares are of new text; replay ratios are 1 - share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, ManifestError, MissingInputError, Problem
from rewarm_api.frozen import digest_of
from rewarm_api.quantity import parse_percent
from rewarm_api.snapshot import Role
from rewarm_trainer.files import finite
from rewarm_trainer.laws.answers import Study, best_for_corpus, crossing, largest_share, predicted_loss
from rewarm_trainer.laws.hull import ExtrapolationError, Hull
from rewarm_trainer.laws.sets import Measurement, SetLaws, fit_set
from rewarm_trainer.study.folder import ARTEFACT
from rewarm_trainer.study.gather import (
    FinishedRun,
    baselines,
    corpus_tokens,
    critical_ratio,
    measurements,
    mixture_of,
    recipe_of,
)

VERSION = 1
_GOOD_FIT = 0.9


def measured(name: str, uid: str, spec: Any, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """The part of the artefact that no law has touched."""
    first = runs[0]
    sets = {}
    for key, value in first.report["sets"].items():
        fitted = [run for run in runs if not run.child.held_out]
        kept = [run for run in runs if run.child.held_out]
        sets[key] = {
            "role": value["role"],
            "documents": value["documents"],
            "digest": first.pins.sets[key].digest,
            "baseline": [{"parameters": size, "loss": loss} for size, loss in sorted(baselines(runs, key).items())],
            "fitted": [asdict(item) for item in measurements(fitted, key)],
            "held_out": [asdict(item) for item in measurements(kept, key)],
        }
    models = {run.child.model: run for run in runs}
    return {
        "version": VERSION,
        "kind": "MixtureStudy",
        "name": name,
        "uid": uid,
        "tokenizer": first.pins.tokenizer,
        "corpora": mixture_of(first.snapshot, first.pins),
        "recipe": recipe_of(first.snapshot),
        "models": [
            {"name": model, "parameters": run.parameters, "base": run.pins.base_model} for model, run in models.items()
        ],
        "tolerance": spec.tolerance,
        "corpus_tokens": spec.corpus_tokens or corpus_tokens(first),
        "runs": [_run(run) for run in runs],
        "sets": sets,
    }


def _run(run: FinishedRun) -> dict[str, Any]:
    return {
        "label": run.child.label,
        "name": run.snapshot.name,
        "model": run.child.model,
        "parameters": run.parameters,
        "tokens": run.tokens,
        "replay_ratio": run.child.ratio,
        "replay_realized": run.report["replay"]["realized"],
        "held_out": run.child.held_out,
        "snapshot_digest": run.snapshot.digest,
        "losses": {name: value["final"]["loss"] for name, value in run.report["sets"].items()},
    }


def laws_of(facts: Mapping[str, Any], tokens: Sequence[int] | None = None) -> Study:
    """The laws, fitted to the measurements in the artefact: the same ones each time. With `tokens`, those that these
    budgets need."""
    ends = {run["tokens"] for run in facts["runs"]}
    surface = tokens is None or not ends.issuperset(tokens)
    sets = {name: _laws(name, value, surface) for name, value in facts["sets"].items()}
    points = [point for value in facts["sets"].values() for point in value["fitted"]]

    def span(key: str) -> tuple[float, float]:
        return min(point[key] for point in points), max(point[key] for point in points)

    return Study(sets, Hull(span("share"), span("tokens"), span("parameters")))


def _laws(name: str, value: Mapping[str, Any], surface: bool) -> SetLaws:
    rows = [[Measurement(**point) for point in value[key]] for key in ("fitted", "held_out")]
    baseline = {item["parameters"]: item["loss"] for item in value["baseline"]}
    return fit_set(name, Role(value["role"]), baseline, *rows, surface=surface)


@dataclass(frozen=True)
class Place:
    """A model and a budget of the grid."""

    model: str
    parameters: int
    tokens: int


def complete(facts: dict[str, Any], study: Study, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """The whole artefact: measurements, laws, answers, and the digest that a citation keeps."""
    critical = critical_ratio(runs)
    places = sorted({(run.child.model, run.parameters, run.tokens) for run in runs}, key=lambda place: place[1:])
    value = finite(
        {
            **facts,
            "hull": {key: list(span) for key, span in vars(study.hull).items()},
            "laws": {name: laws.to_json() for name, laws in study.sets.items()},
            "critical": None if critical is None else critical.to_json(),
            "answers": {
                "largest_share": [_largest(facts, study, Place(*place)) for place in places],
                "best_for_corpus": _best(facts, study),
                "held_out": [_predicted(run, study) for run in runs if run.child.held_out],
            },
            "warnings": _warnings(study),
            "outcome": "Succeeded",
        }
    )
    return {**value, "digest": digest_of(value)}


def _largest(facts: Mapping[str, Any], study: Study, place: Place) -> dict[str, Any]:
    tolerance = float(parse_percent(facts["tolerance"])) / 100
    head = {"model": place.model, "tokens": place.tokens, "tolerance": facts["tolerance"]}
    answer = largest_share(study, tolerance, place.tokens, place.parameters)
    if answer is None:
        return {**head, "replay_ratio": None, "why": "no measured ratio keeps the tolerance on every Retained set"}
    laws = study.sets[answer.decided_by]
    points = [
        point
        for point in facts["sets"][answer.decided_by]["fitted"]
        if point["final"] and (point["parameters"], point["tokens"]) == (place.parameters, place.tokens)
    ]
    lines = crossing(
        [point["share"] for point in points],
        [point["loss"] for point in points],
        (1 + tolerance) * laws.baseline[place.parameters],
    )
    why = "the largest share that was measured keeps the tolerance" if answer.at_border else None
    if answer.covers(study.hull.shares):
        why = (
            "its interval covers nearly every measured ratio, so these runs hardly say; measure ratios nearer to it "
            "(a ratio of 0 bends the law most), or more of them"
        )
    return {**head, **answer.to_json(), "by_straight_lines": lines, "why": why}


def _best(facts: Mapping[str, Any], study: Study) -> list[dict[str, Any]]:
    answers = []
    for model in facts["models"]:
        head = {"model": model["name"], "corpus_tokens": facts["corpus_tokens"]}
        try:
            answer = best_for_corpus(study, facts["corpus_tokens"], model["parameters"])
        except ManifestError as error:
            answers.append({**head, "replay_ratio": None, "why": str(error)})
            continue
        why = "no measured ratio uses up this corpus within the measured budgets; set corpusTokens or other budgets"
        if answer is not None:
            why = "the best share lies at the border of what was measured" if answer.at_border else ""
        answers.append({**head, **({"replay_ratio": None} if answer is None else answer.to_json()), "why": why or None})
    return answers


def _predicted(run: FinishedRun, study: Study) -> dict[str, Any]:
    """What the laws say of a held-out run, beside what it measured."""
    sets = {}
    for name, value in run.report["sets"].items():
        found = predicted_loss(study, name, run.share, run.tokens, run.parameters)
        sets[name] = {**found.to_json(), "measured": value["final"]["loss"]}
    head = {"model": run.child.model, "tokens": run.tokens, "replay_ratio": run.child.ratio}
    return {**head, "sets": sets}


def predictions(study: Study, facts: Mapping[str, Any], ratio: float, tokens: int, extrapolate: bool) -> list[Any]:
    """The loss of every set at a ratio and a budget, for each model. ExtrapolationError (64) outside the hull."""
    rows = []
    for model in facts["models"]:
        sets = {
            name: predicted_loss(study, name, 1 - ratio, tokens, model["parameters"], extrapolate=extrapolate).to_json()
            for name in study.sets
        }
        rows.append({"model": model["name"], "replay_ratio": ratio, "tokens": tokens, "sets": sets})
    return rows


def _warnings(study: Study) -> list[str]:
    found = []
    for name, laws in study.sets.items():
        surface = laws.surface
        if surface is not None and (surface.fit.r2 is None or surface.fit.r2 < _GOOD_FIT):
            shown = "none" if surface.fit.r2 is None else f"{surface.fit.r2:.3f}"
            found.append(
                f"the D-CPT law fits set {name} badly (R2 {shown}): it lets losses only fall with tokens, and ever "
                "more slowly; ask about measured budgets, where the law in the ratio speaks"
            )
    return found


def load_artefact(folder: Path) -> dict[str, Any]:
    """study.json of a finished study. MissingInputError (66): no study there; ManifestError (64): not finished;
    DataError (65): not as it was written."""
    path = folder / ARTEFACT
    if not path.exists():
        if not (folder / "state").is_dir():
            raise MissingInputError(f"{folder}: found no study, expected the work folder of `rewarm study`")
        raise ManifestError(
            Problem("study", f"{folder}, which is not finished", f"a finished study, with {ARTEFACT}",
                    "start its `rewarm study` command again: it goes on where it was stopped")
        )  # fmt: skip
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        digest = value.pop("digest", None)
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: unreadable ({error}); the same `rewarm study` command writes it again") from None
    if value.get("version") != VERSION:
        raise DataError(f"{path}: found version {value.get('version')}, expected {VERSION}")
    if digest != digest_of(value):
        raise DataError(f"{path}: not as it was written; the same `rewarm study` command writes it again")
    return {**value, "digest": digest}


__all__ = ["ExtrapolationError", "complete", "laws_of", "load_artefact", "measured", "predictions"]
