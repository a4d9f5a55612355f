"""Row 9: weights by a skill graph, learned from runs of each text alone and of each pair.

base(general) ──┬─> clean | noisy | code | each pair of them, a third of the tokens ──> graph
                └─> clean, noisy and code together: even | by their own losses | by the learned graph

`clean` is a small German text (142 documents, 28 of them held out), `noisy` a large one of the same kind with spoiled
letters: it should help the small one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from rewarm_api.skills import learning_runs
from rewarm_bench.pages import words
from science import figures
from science.arms import Arm, Graph
from science.claims import Above, Below, Claim
from science.corpora import CLEAN, CODE, LICENSES, NOISY
from science.finding import Finding, Measured, Results, Table
from science.recipes import Setting, base, continued, source
from science.results import Run, change, contrast, mean_weight

SKILLIT = "Chen et al. 2023, 2307.14430 (Skill-it)"
TEXTS = (CLEAN, CODE, NOISY)
KNOWN = tuple(LICENSES)
ARMS = {"even": "even", "own-losses": "own losses (no edges)", "learned-graph": "learned graph"}
LEARNED_ON = 3
"""A learning run takes this part of the tokens."""

CLAIMS = (
    Claim(
        "edge",
        "A graph is there to be learned: of equal tokens, half of them the large spoiled text, the small clean text "
        "ends with a lower loss than of its own text alone.",
        f"{SKILLIT}: ordered skill sets exist in real data",
        Below(),
    ),
    Claim(
        "graph",
        "At equal tokens the learned graph ends with a lower mean loss over the three texts than even weights (what "
        "learning it cost, twice as much again, left out).",
        f"{SKILLIT}, abstract",
        Below(),
        "RedPajama, 3B: 1B tokens beat uniform with 3B",
    ),
    Claim(
        "edges-matter",
        "It is the graph: weights by each text's own loss alone end with a higher mean loss.",
        f"{SKILLIT}: a graph without edges is the cheap variant",
        Above(),
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    on = base(setting, seed)
    shorter = dataclasses.replace(setting, tokens=setting.tokens // LEARNED_ON)
    plain = {"corpus": {"sources": [source(each) for each in TEXTS]}}
    even = {"corpus": {"sources": [{**source(each), "weight": 1} for each in TEXTS]}}

    def go(name: str, lines: Mapping[str, Any]) -> Arm:
        return continued(f"skills-{name}", setting, seed, on, CODE, retained=(), lines=lines)

    template = continued("skills", shorter, seed, on, CODE, retained=(), lines=plain)
    learning = {name: Arm(f"skills-{name}-s{seed}", spec) for name, spec in learning_specs(template).items()}
    graph = Graph(tuple(learning.values()))
    return {
        "even": go("even", even),
        "own-losses": go("own-losses", {**plain, **_graph([])}),
        "learned-graph": go("learned-graph", {**plain, **_graph(graph)}),
        **learning,
    }


def learning_specs(template: Arm) -> dict[str, Mapping[str, Any]]:
    """What `python -m rewarm_api.skills` makes of a manifest, by sources: `only-clean`, `clean-and-noisy`."""
    document = {**template.manifest(dict.fromkeys(KNOWN, "")), "metadata": {"name": "x"}}
    phases = {name: run["spec"]["phases"] for name, run in learning_runs(document).items()}
    return {name.removeprefix("x-"): {**template.spec, "phases": each} for name, each in phases.items()}


def _graph(edges: Any) -> dict[str, Any]:
    return {"mixture": {"every": "10%", "skillGraph": {"rate": 0.2, "window": 3, "edges": edges}}}


def edges_of(run: Run) -> list[dict[str, Any]]:
    """The graph that a run was given."""
    mixture = run.snapshot().get("mixture") or {}
    edges: list[dict[str, Any]] = (mixture.get("skillGraph") or {}).get("edges", [])
    return edges


def measure(results: Results, setting: Setting) -> Measured:
    even, own, graph = (results[name] for name in ARMS)
    alone, paired = results[f"only-{CLEAN}"], results[f"{CLEAN}-and-{NOISY}"]
    comparisons = {
        "edge": {"": contrast(paired, alone, CLEAN)},
        "graph": {"": contrast(graph, even, *TEXTS)},
        "edges-matter": {"": contrast(own, graph, *TEXTS)},
    }
    losses = [
        (
            label,
            *(words(change(results[name], each)) for each in TEXTS),
            ", ".join(mean_weight(results[name], each, TEXTS) for each in TEXTS),
        )
        for name, label in ARMS.items()
    ]
    edges = [
        (
            str(seed),
            ", ".join(f"{each['source']} → {each['helps']} {each['weight']:.3f}" for each in edges_of(run)) or "none",
        )
        for seed, run in zip(setting.seeds, graph, strict=True)
    ]
    header = ("weights", *TEXTS, "mean weight")
    tables = [
        Table("Change of the loss from the base; mean weights over all decisions:", header, losses),
        Table(
            "What runs of each text alone and of each pair taught (source → what it helps):", ("seed", "edges"), edges
        ),
    ]
    named = {label: results[name] for name, label in ARMS.items()}
    panels = [partial(figures.rises, arms=named, name=each, title=each) for each in (CLEAN, CODE)]
    return Measured(comparisons, tables, panels)


FINDING = Finding("skills", "A skill graph", CLAIMS, arms, measure)
