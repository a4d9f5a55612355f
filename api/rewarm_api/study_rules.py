"""Says everything that is wrong with a MixtureStudy at once: its own fields, and those of the runs that follow from it.

The runs are checked by the validation of a ContinualRun, with each field named where the study has it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.messages import found_text
from rewarm_api.reading import Reader, without_nulls
from rewarm_api.study import MixtureStudy
from rewarm_api.study_runs import child_document
from rewarm_api.validate import CLUSTER_ONLY, validate, without_server_fields

_TEMPLATE = "spec.template.spec"
_SET_BY_STUDY = {
    "replay.ratio": ("no ratio: spec.grid.replayRatios sets it", "remove ratio"),
    "replay.adaptive": ("no adaptive: each run of a study keeps its ratio", "remove adaptive"),
    "gates": ("no gates: the runs of a study are never promoted", "remove gates"),
    "phases": ("no phases: each run of a study keeps its mixture", "remove phases"),
    "budget.epochs": (
        "a budget in tokens, so that all ratios are compared at equal tokens",
        "write budget: {tokens: ...}",
    ),
}
_ANY_RATIO, _ANY_TOKENS = 0.25, 10**12


@dataclass(frozen=True)
class StudyValidation:
    """What validation found; `study` is None unless the manifest is valid."""

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    study: MixtureStudy | None
    unused: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return not self.problems


def validate_study(document: Mapping[str, Any], *, local: bool | None) -> StudyValidation:
    """Every problem and warning of a study's manifest. `local` as in `validate`."""
    given = without_server_fields(without_nulls(dict(document)))
    reader = Reader()
    study = reader.model(MixtureStudy, given, "")
    problems = list(reader.problems)
    warnings: tuple[str, ...] = ()
    if study.spec is not None:
        problems += _grid_problems(study.spec)
        template = study.spec.template.spec if study.spec.template is not None else None
        if isinstance(template, dict):
            problems += _template_problems(study.spec, template)
            found, warnings = _child_problems(study.spec, template, local)
            problems += found
    unique = tuple(dict.fromkeys(problems))
    return StudyValidation(unique, warnings, None if unique else study, () if local is False else _unused(given))


def _unused(document: dict[str, Any]) -> tuple[str, ...]:
    """Fields of the template that only a cluster has a use for."""
    moved = [path.replace("spec", _TEMPLATE, 1) for path in CLUSTER_ONLY if path.startswith("spec.")]
    return tuple(path for path in moved if _at(document, path) is not None)


def _grid_problems(spec: Any) -> Iterator[Problem]:
    grid = spec.grid
    if grid is None:
        return
    ratios = [ratio for ratio in grid.replay_ratios or [] if ratio is not None]
    yield from _repeated("spec.grid.replayRatios", grid.replay_ratios or [])
    yield from _repeated("spec.grid.budgets", grid.budgets or [])
    yield from _repeated("spec.grid.models", [item and item.name for item in grid.models or []], ".name")
    held_out = (spec.hold_out and spec.hold_out.replay_ratios) or []
    yield from _repeated("spec.holdOut.replayRatios", held_out)
    for index, ratio in enumerate(held_out):
        path = f"spec.holdOut.replayRatios[{index}]"
        if ratio in ratios:
            yield Problem(path, found_text(ratio), "a ratio that the grid does not have", "remove it here or there")
        elif ratio is not None and ratios and not min(ratios) < ratio < max(ratios):
            between = f"a ratio between those of the grid, {min(ratios)} and {max(ratios)}"
            yield Problem(path, found_text(ratio), between, "a law is judged where it may be used")


def _repeated(path: str, values: list[Any], field: str = "") -> Iterator[Problem]:
    for index, value in enumerate(values):
        if value is not None and value in values[:index]:
            yield Problem(f"{path}[{index}]{field}", found_text(value), "each value once", "remove one of them")


def _template_problems(spec: Any, template: dict[str, Any]) -> Iterator[Problem]:
    """What the study sets itself must not stand in the template, and what it does not set must."""
    for path, (expected, fix) in _SET_BY_STUDY.items():
        value = _at(template, path)
        if value is not None:
            yield Problem(f"{_TEMPLATE}.{path}", found_text(value), expected, fix)
    grid = spec.grid
    for name, listed, words in (
        ("baseModel", grid and grid.models, "models"),
        ("budget", grid and grid.budgets, "budgets"),
    ):
        if listed and template.get(name) is not None:
            yield Problem(f"{_TEMPLATE}.{name}", f"{name}, beside spec.grid.{words}",
                          f"exactly one of {name} | spec.grid.{words}", "remove one of them")  # fmt: skip
    roles = _roles(template)
    for role in ("New", "Retained"):
        if roles is not None and role not in roles:
            yield Problem(f"{_TEMPLATE}.evaluation.sets", f"no set of role {role}", "sets of both roles",
                          "add one: a study weighs the new against the old")  # fmt: skip


def _roles(template: dict[str, Any]) -> set[str] | None:
    """Roles of the sets as far as they can be told; None when they are all default, one per source."""
    sets = _at(template, "evaluation.sets")
    if not isinstance(sets, list) or not sets or not all(isinstance(item, dict) for item in sets):
        return None
    corpus = _at(template, "corpus.sources") or []
    names = {source.get("name") for source in corpus if isinstance(source, dict)} if isinstance(corpus, list) else set()
    return {str(item.get("role") or ("New" if item.get("name") in names else "Retained")) for item in sets}


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _child_problems(spec: Any, template: dict[str, Any], local: bool | None) -> tuple[list[Problem], tuple[str, ...]]:
    """The runs' own problems: one run for each model and each budget, since ratios only differ in being above 0."""
    grid = spec.grid
    ratios = [ratio for ratio in (grid and grid.replay_ratios) or [] if ratio is not None]
    ratio = max(ratios) if ratios else _ANY_RATIO
    own: list[tuple[int | None, Any]] = [(None, None)]
    budgets = list(enumerate((grid and grid.budgets) or [])) or own
    models = list(enumerate((grid and grid.models) or [])) or own
    found: list[Problem] = []
    warnings: list[str] = []
    for place, (model, chosen) in enumerate(models):
        base = _as_json(chosen.base_model) if chosen is not None and chosen.base_model is not None else None
        if model is not None and base is None:
            continue
        # Models and budgets do not meet in any rule: each budget needs one model only.
        for budget, tokens in budgets[: 1 if place else None]:
            document = child_document(
                spec, base, _ANY_TOKENS if budget is not None and tokens is None else tokens, ratio
            )
            if _at(document, "spec.budget.epochs") is not None:
                document["spec"]["budget"] = {"tokens": _ANY_TOKENS}
            for path in _SET_BY_STUDY:
                if path != "replay.ratio":
                    _drop(document["spec"], path)
            if not ratios and isinstance(document["spec"].get("replay"), dict):
                document["spec"]["replay"]["ratio"] = _ANY_RATIO
            validation = validate(document, local=local)
            found += [_moved(problem, model, budget) for problem in validation.problems]
            warnings += [_moved_path(text, model, budget) for text in validation.warnings]
    return found, tuple(dict.fromkeys(warnings))


def _as_json(model: Any) -> dict[str, Any]:
    value: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
    return value


def _drop(spec: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    place: Any = spec
    for step in parents:
        place = place.get(step) if isinstance(place, dict) else None
    if isinstance(place, dict):
        place.pop(last, None)


def _moved(problem: Problem, model: int | None, budget: int | None) -> Problem:
    """The problem of a run, at the field of the study that it comes from."""
    words = (problem.found, problem.expected, problem.fix)
    found, expected, fix = (re.sub(r"\bspec\.(?!grid|holdOut|template)", _TEMPLATE + ".", text) for text in words)
    return Problem(_moved_path(problem.field, model, budget), found, expected, fix)


def _moved_path(path: str, model: int | None, budget: int | None) -> str:
    if model is not None and path.startswith("spec.baseModel"):
        return path.replace("spec.baseModel", f"spec.grid.models[{model}].baseModel", 1)
    if budget is not None and path.startswith("spec.budget"):
        return f"spec.grid.budgets[{budget}]"
    return path.replace("spec", _TEMPLATE, 1) if path.startswith("spec") else path


def no_study(document: Any) -> Problem | None:
    """The problem of a study where a run is expected; None for anything else."""
    if not isinstance(document, Mapping) or document.get("kind") != "MixtureStudy":
        return None
    return Problem("kind", "MixtureStudy", "ContinualRun", "use `rewarm study`, or kubectl apply on a cluster")
