"""A recipe baked into a Hugging Face folder: weights, configuration, tokenizer, lineage and a card.

The folder appears whole or not at all. What it was made of is in `lineage.json`, with the digest of each ingredient.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm_api.errors import ManifestError, Problem
from rewarm_trainer.base import stored_type
from rewarm_trainer.checkpoint import WEIGHTS, sha256_of
from rewarm_trainer.export import copy_configuration
from rewarm_trainer.files import publish_folder, write_bytes, write_json
from rewarm_trainer.weights.recipes import Recipe
from rewarm_trainer.weights.tensors import TYPES, write_tensors

LINEAGE = "lineage.json"
CARD = "README.md"


@dataclass(frozen=True)
class Baked:
    """A merged model: its folder, the type of most of its weights, and what `lineage.json` says."""

    folder: Path
    type: str
    lineage: dict[str, Any]


def check_new(out: Path) -> None:
    """64 when OUT holds something already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ManifestError(
            Problem("OUT", f"{out}, which is not empty", "a new or empty folder", "choose another folder")
        )


def write_model(recipe: Recipe, folder: Path, dtype: str | None, alive: Callable[[], None] = lambda: None) -> str:
    """Weights, configuration and tokenizer into an existing folder; returns the type that most weights have."""
    planned = recipe.planned(dtype)
    write_tensors(folder / WEIGHTS, planned, alive)
    kind = dtype or stored_type(recipe.pattern.folder)
    copy_configuration(recipe.pattern.folder, folder, str(TYPES[kind]).removeprefix("torch."))
    return kind


def lineage_of(recipe: Recipe, ingredients: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """What the model was made of, in JSON. `ingredients`: what is known of a folder beyond its digest."""
    coefficients = recipe.details.get("coefficients")
    inputs = []
    for number, model in enumerate(recipe.models):
        line: dict[str, Any] = {"label": model.label, "digest": model.digest, **ingredients.get(model.folder, {})}
        if coefficients:
            line["coefficient"] = coefficients[number]
        inputs.append(line)
    details = {key: value for key, value in recipe.details.items() if key != "coefficients"}
    return {"kind": recipe.kind, **details, "inputs": inputs}


def bake(
    recipe: Recipe,
    out: Path,
    dtype: str | None,
    ingredients: Mapping[Path, Mapping[str, Any]],
    card: Callable[[Mapping[str, Any]], str],
    judge: Callable[[Path], Mapping[str, Any]] = lambda folder: {},
) -> Baked:
    """Writes the model to `out` (new or empty, else 64). `judge` adds to the lineage what the finished folder showed.

    Models that do not fit each other are refused before anything is written (65).
    """
    check_new(out)
    lineage: dict[str, Any] = {"version": 1, **lineage_of(recipe, ingredients)}
    assert recipe.names
    if out.is_dir():
        out.rmdir()
    kinds: list[str] = []

    def fill(folder: Path) -> None:
        kinds.append(write_model(recipe, folder, dtype))
        lineage["type"] = kinds[0]
        lineage["sha256"] = sha256_of(folder / WEIGHTS)
        lineage.update(judge(folder))
        write_json(folder / LINEAGE, lineage)
        write_bytes(folder / CARD, card(lineage).encode())

    publish_folder(out, fill)
    return Baked(out, kinds[0], json.loads((out / LINEAGE).read_text()))
