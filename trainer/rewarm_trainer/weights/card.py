"""The card of a merged model: what it was made of, and what it showed. Claims no licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewarm_trainer.findings import change
from rewarm_trainer.model_card import markdown_table, plain
from rewarm_trainer.weights.verdict import step_words


def merged_card(lineage: Mapping[str, Any]) -> str:
    """README.md of the folder."""
    lines = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- merge\n- rewarm\n---",
        f"# A merged model: {plain(step_words(lineage))}",
        "Made from other models by arithmetic on their weights, without training (`rewarm merge`).",
        "## Ingredients",
        markdown_table(("model", "weighs", "digest"), [_ingredient(line) for line in lineage["inputs"]]),
    ]
    if lineage.get("formula"):
        lines.append(f"Formula, weight by weight in float32: {plain(lineage['formula'])}.")
    if "sets" in lineage:
        rows = [
            (
                name,
                value["role"],
                f"{value['documents']:,}",
                f"{value['baseline']['loss']:.4f}",
                f"{value['final']['loss']:.4f}",
                change(value["delta"]).replace(" nats per token", ""),
                value["verdict"] or "–",
            )
            for name, value in lineage["sets"].items()
        ]
        head = ("set", "role", "documents", "loss of the base", "of this model", "change [95 %]", "verdict")
        lines += ["## What it showed", markdown_table(head, rows)]
        lines.append("Nats per token, below zero is better. Documents that chose the recipe are not among these.")
    else:
        lines.append("Nobody has measured this model yet: `rewarm compare RUN THIS_FOLDER`.")
    return "\n\n".join(lines) + "\n"


def _ingredient(line: Mapping[str, Any]) -> tuple[str, str, str]:
    name = f"{line['run']}, step {line['step']:,}" if "run" in line else line["label"]
    weighs = f"{line['coefficient']:.4g}" if "coefficient" in line else "–"
    return name, weighs, f"`{line['digest'][:19]}…`"
