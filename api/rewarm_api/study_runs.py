"""The runs of a study: one ContinualRun manifest for each place of its grid. Pure.

A run's name follows from what it is, not from where it stands in the grid, so that a grid may grow and keep its runs.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rewarm_api.quantity import plain_decimal
from rewarm_api.run import API_VERSION
from rewarm_api.run import KIND as RUN_KIND

_LONGEST_NAME = 40
_HASH = 10


@dataclass(frozen=True)
class ChildRun:
    """One run of a study: `label` names its folder, `document` is its manifest (paths as in the study's)."""

    name: str
    label: str
    model: str
    ratio: float
    tokens: int
    held_out: bool
    document: dict[str, Any]


def child_runs(study: Any) -> list[ChildRun]:
    """Every run of a valid study: model by model, budget by budget, in the order of ratios, held-out ones last."""
    return list(_runs(study.metadata.name, study.spec))


def _runs(study: str, spec: Any) -> Iterator[ChildRun]:
    held_out = [] if spec.hold_out is None else spec.hold_out.replay_ratios
    ratios = [(ratio, False) for ratio in sorted(spec.grid.replay_ratios)]
    ratios += [(ratio, True) for ratio in sorted(held_out)]
    for name, base_model in models_of(spec):
        for tokens in budgets_of(spec):
            for ratio, kept in ratios:
                label = _label(name, ratio, tokens)
                document = child_document(spec, base_model, tokens, ratio)
                chosen = _name(study, label)
                document["metadata"]["name"] = chosen
                _give_places(document["spec"], study, chosen)
                yield ChildRun(chosen, label, name, ratio, tokens, kept, document)


def models_of(spec: Any) -> list[tuple[str, dict[str, Any]]]:
    """(name, baseModel as JSON) of every model; the name is empty for the template's own."""
    if not spec.grid.models:
        return [("", spec.template.spec.get("baseModel"))]
    return [(item.name, item.base_model.model_dump(mode="json", by_alias=True, exclude_unset=True))
            for item in spec.grid.models]  # fmt: skip


def budgets_of(spec: Any) -> list[int]:
    """Tokens of every budget, in rising order."""
    from rewarm_api.quantity import parse_tokens

    if spec.grid.budgets:
        return sorted(spec.grid.budgets)
    return [parse_tokens(spec.template.spec["budget"]["tokens"])]


def child_document(spec: Any, base_model: Any, tokens: int | None, ratio: float | None) -> dict[str, Any]:
    """The template with a model, a budget and a ratio put in; None leaves the template's own."""
    given = copy.deepcopy(spec.template.spec)
    if base_model is not None:
        given["baseModel"] = copy.deepcopy(base_model)
    if tokens is not None:
        given["budget"] = {"tokens": tokens}
    if ratio is not None and isinstance(given.get("replay"), dict | None):
        given["replay"] = {**(given.get("replay") or {}), "ratio": ratio}
    return {"apiVersion": API_VERSION, "kind": RUN_KIND, "metadata": {"name": "study"}, "spec": given}


def _give_places(given: dict[str, Any], study: str, name: str) -> None:
    """Runs share an experiment and a registered model, but never a folder; the last checkpoint is enough."""
    given["tracking"] = {"experiment": study, "registeredModel": study, **(given.get("tracking") or {})}
    checkpoints = {"keep": 1, **(given.get("checkpoints") or {})}
    if checkpoints.get("uri"):
        checkpoints["uri"] = f"{checkpoints['uri'].rstrip('/')}/{name}/"
    given["checkpoints"] = checkpoints


def _label(model: str, ratio: float, tokens: int) -> str:
    text = plain_decimal(Decimal(repr(float(ratio))))
    return f"{model}-r{text}-t{tokens}".removeprefix("-")


def _name(study: str, label: str) -> str:
    name = f"{study}-{label}".replace(".", "-")
    if len(name) <= _LONGEST_NAME:
        return name
    short = hashlib.sha256(label.encode()).hexdigest()[:_HASH]
    return f"{study[: _LONGEST_NAME - _HASH - 1].rstrip('-')}-{short}"
