"""`replay.ratio: {fromStudy: ...}`: the number that a finished study answers, and what keeps a law from being cited.

The number is found before the snapshot is made and stands in it with the citation; it is never looked up again. Whether
the run's text and tokenizer are the study's shows once they are prepared, its size once the model is there (64 each).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewarm_api.corpus import CitedRatio
from rewarm_api.errors import ManifestError, MissingInputError, Problem
from rewarm_api.frozen import digest_of
from rewarm_api.pins import Pins
from rewarm_api.quantity import parse_percent
from rewarm_api.run import ContinualRun
from rewarm_api.snapshot import CitedStudy, Snapshot
from rewarm_trainer.laws.answers import largest_share
from rewarm_trainer.laws.hull import ExtrapolationError
from rewarm_trainer.study.artefact import laws_of, load_artefact
from rewarm_trainer.study.gather import mixture_of, recipe_of

FIELD = "spec.replay.ratio"


def cite(run: ContinualRun, root: Path, stored: Snapshot | None = None) -> CitedStudy | None:
    """What the study that a valid run cites answers; None when its ratio is a number. `root`: the manifest's folder.

    `stored`: the snapshot that this run began with, whose citation stands if the manifest still asks the same.
    """
    asked = run.spec.replay.ratio if run.spec.replay is not None else None
    if not isinstance(asked, CitedRatio):
        return None
    if stored is not None and stored.replay.cited is not None and stored.replay.cited.asked == _as_json(asked):
        return stored.replay.cited
    folder = study_folder(asked.from_study, root)
    batch = run.spec.training.global_batch_tokens
    assert run.spec.budget.tokens is not None, "a citation with a budget in epochs is refused by validation"
    return answered(asked, _load(folder), -(-run.spec.budget.tokens // batch) * batch, str(folder))


def answered(asked: CitedRatio, artefact: Mapping[str, Any], tokens: int, where: str) -> CitedStudy:
    """What a finished study answers for a budget in tokens. `where` it lies, for messages."""
    model = _model(artefact, asked.model)
    tolerance = asked.tolerance or artefact["tolerance"]
    try:
        answer = largest_share(
            laws_of(artefact, [tokens]),
            float(parse_percent(tolerance)) / 100,
            tokens,
            model["parameters"],
            extrapolate=asked.extrapolate,
        )
    except ExtrapolationError as error:
        raise ManifestError([_outside(problem, where) for problem in error.problems]) from None
    if answer is None:
        words = f"study {artefact['name']}, in which no ratio keeps a tolerance of {tolerance} at {tokens} tokens"
        raise ManifestError(
            Problem(FIELD, words, "a tolerance that a measured ratio keeps", "raise the tolerance, or write a number")
        )
    return CitedStudy(
        asked=_as_json(asked),
        study=artefact["name"],
        digest=artefact["digest"],
        ratio=answer.replay_ratio,
        share=answer.share,
        low=answer.low,
        high=answer.high,
        law=answer.law,
        at_border=answer.at_border,
        tolerance=tolerance,
        tokens=tokens,
        parameters=model["parameters"],
        tokenizer=artefact["tokenizer"],
        corpora=digest_of(artefact["corpora"]),
        recipe=artefact["recipe"],
    )


def study_folder(given: str, root: Path) -> Path:
    """The work folder of a study: a path from the manifest's folder, or a name, where `rewarm study` puts it."""
    beside = root / given
    if "/" in given or (beside / "state").is_dir():
        return beside
    return Path("studies") / given


def _as_json(asked: CitedRatio) -> dict[str, Any]:
    value: dict[str, Any] = asked.model_dump(mode="json", by_alias=True, exclude_none=True)
    return value


def _load(folder: Path) -> dict[str, Any]:
    try:
        return load_artefact(folder)
    except MissingInputError as error:
        raise MissingInputError(f"{FIELD}.fromStudy: {error}") from None
    except ManifestError as error:
        moved = [Problem(f"{FIELD}.fromStudy", item.found, item.expected, item.fix) for item in error.problems]
        raise ManifestError(moved) from None


def _model(artefact: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    models: Sequence[Mapping[str, Any]] = artefact["models"]
    known = ", ".join(model["name"] or "its only one" for model in models)
    chosen = [model for model in models if name is None or model["name"] == name]
    if len(chosen) == 1:
        return chosen[0]
    found = name or f"a study of {len(models)} models"
    raise ManifestError(
        Problem(f"{FIELD}.model", found, f"one of its models: {known}", "name the model of this run's size")
    )


def _outside(problem: Problem, where: str) -> Problem:
    found = f"{problem.field} {problem.found}, which study {where} did not measure"
    fix = "change the run or the study, or set extrapolate: true in ratio"
    return Problem(FIELD, found, problem.expected, fix)


def check_text(snapshot: Snapshot, pins: Pins) -> list[str]:
    """Refuses (64) a law of another corpus or tokenizer than the prepared run's. Returns warnings."""
    cited = snapshot.replay.cited
    if cited is None:
        return []
    problems = []
    if pins.tokenizer != cited.tokenizer:
        problems.append(_refusal("tokenizer", pins.tokenizer[:19], cited.tokenizer[:19], cited))
    found = digest_of(mixture_of(snapshot, pins))
    if found != cited.corpora:
        problems.append(_refusal("corpora and weights", found[:19], cited.corpora[:19], cited))
    if problems:
        raise ManifestError(problems)
    if recipe_of(snapshot) != cited.recipe:
        return [
            f"{FIELD}: study {cited.study} was trained by another schedule or other training settings than this run; "
            "its law may not hold here"
        ]
    return []


def check_size(snapshot: Snapshot, parameters: int) -> None:
    """Refuses (64) a law of another model size than the one that is to be trained."""
    cited = snapshot.replay.cited
    if cited is not None and parameters != cited.parameters:
        raise ManifestError(_refusal("parameters", str(parameters), str(cited.parameters), cited))


def _refusal(words: str, found: str, expected: str, cited: CitedStudy) -> Problem:
    return Problem(
        f"{FIELD}.fromStudy",
        f"{words} {found}",
        f"{expected}, as in study {cited.study}: a law holds for what it was fitted to",
        "cite a study of this run's text, tokenizer and size, or write the ratio as a number",
    )
