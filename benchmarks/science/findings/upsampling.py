"""Row 7: phases. A fifth of the tokens is code, wherever in the run it comes.

base(general) ──> german 80 %, code 20 %, with 10 % replay; code comes throughout | in the last fifth | in the first
             └──> the same throughout | in the last fifth, at a constant rate
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rewarm_bench.effects import Estimate
from rewarm_bench.pages import words
from science import figures
from science.arms import Arm
from science.claims import Above, Below, Claim
from science.corpora import CODE, GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.recipes import Setting, base, constant, continued, source
from science.results import change, contrast

PAPER = "Blakeney et al. 2024, 2406.03476"
BULK, DOMAIN = {GERMAN: 1, CODE: 0}, {GERMAN: 0, CODE: 1}
ARMS = {
    "throughout": "a fifth of every step",
    "last": "the last fifth",
    "first": "the first fifth",
    "throughout-constant": "a fifth of every step, constant rate",
    "last-constant": "the last fifth, constant rate",
}

CLAIMS = (
    Claim(
        "last-best",
        "At equal tokens of each text, the domain placed in the last fifth ends with a lower loss on the domain than "
        "spread over the run.",
        f"{PAPER}, abstract: upsampled in the last 10 to 20 % of training",
        Below(),
        "7B: +6.90 MMLU, +8.26 GSM8K, +6.17 HumanEval over the base mix (not at equal domain tokens)",
    ),
    Claim(
        "constant-best",
        "It is the place, not the decayed rate that it meets: at a constant rate the domain placed last ends with a "
        "lower loss on the domain than spread over the run.",
        f"{PAPER}; the rate as the reason for what decayed runs showed here is ours",
        Below(),
    ),
    Claim(
        "first-worst",
        "Placed in the first fifth it ends with a higher loss on the domain than spread over the run.",
        "expected from the above, measured in no paper",
        Above(),
    ),
    Claim(
        "price",
        "The last fifth has a price: the bulk's loss ends higher than when the domain is spread over the run.",
        f"{PAPER}: general loss rises with the length of the upsampling",
        Above(),
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    on = base(setting, seed)
    sources = [{**source(GERMAN), "weight": 4}, {**source(CODE), "weight": 1}]
    orders: dict[str, list[dict[str, Any]]] = {
        "throughout": [],
        "last": [
            {"name": "bulk", "share": "80%", "weights": BULK},
            {"name": "domain", "share": "20%", "weights": DOMAIN},
        ],
        "first": [
            {"name": "domain", "share": "20%", "weights": DOMAIN},
            {"name": "bulk", "share": "80%", "weights": BULK},
        ],
    }

    def go(name: str, order: str, schedule: Mapping[str, Any] | None = None) -> Arm:
        phases = {"phases": orders[order]} if orders[order] else {}
        lines = {"corpus": {"sources": sources}, **phases}
        return continued(f"domain-{name}", setting, seed, on, GERMAN, ratio=0.1, schedule=schedule, lines=lines)

    flat = constant(setting, 0.5)
    return {
        **{name: go(name, name) for name in orders},
        **{f"{name}-constant": go(f"{name}-constant", name, flat) for name in ("throughout", "last")},
    }


def measure(results: Results, setting: Setting) -> Measured:
    def against(name: str, text: str) -> dict[str, Estimate]:
        return {"": contrast(results[name], results["throughout"], text)}

    comparisons = {
        "last-best": against("last", CODE),
        "constant-best": {"": contrast(results["last-constant"], results["throughout-constant"], CODE)},
        "first-worst": against("first", CODE),
        "price": against("last", GERMAN),
    }
    rows = [
        (label, *(words(change(results[name], text)) for text in (CODE, GERMAN, GENERAL)))
        for name, label in ARMS.items()
    ]
    table = Table(
        "Change of the loss from the base; every arm trains on the same number of tokens of each text:",
        ("code comes in", "domain (code)", "bulk (german)", "old text (general)"),
        rows,
    )
    named = {label: results[name] for name, label in ARMS.items()}
    return Measured(
        comparisons,
        [table],
        [
            partial(figures.rises, arms=named, name=CODE, title="domain (code)"),
            partial(figures.rises, arms=named, name=GERMAN, title="bulk (german)"),
        ],
    )


FINDING = Finding("upsampling", "Phases: the domain at the end", CLAIMS, arms, measure)
