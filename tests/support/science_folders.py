"""Work folders as `rewarm run` leaves them, with losses that follow a known law: findings are measured on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from science.results import Run

STEPS, BATCH, DOCUMENTS, LOOKED = 100, 2_048, 60, 40
LOOK_STEPS = (1, 2, 4, 8, 10, 25, 50, 75)
Law = Callable[[float], float]
"""Share of the run -> rise above the base in nats per token."""


def write_run(folder: Path, laws: Mapping[str, Law], seed: int = 0, noise: float = 0.02) -> Run:
    """One finished run: each set follows its law, with noise of its own per document and per run."""
    random = np.random.default_rng(seed)
    for name, law in laws.items():
        shared = np.random.default_rng(sum(name.encode()))
        labels = shared.integers(200, 600, DOCUMENTS).astype(float)
        base = labels * shared.uniform(3, 5, DOCUMENTS)
        document = shared.normal(size=DOCUMENTS)
        own = noise * random.normal()
        moments = {f"looks/step-{step:08d}": (step, LOOKED) for step in LOOK_STEPS} | {"final": (STEPS, DOCUMENTS)}
        _write(folder / "state" / "baseline" / f"{name}.json", base, labels)
        for place, (step, count) in moments.items():
            rise = law(step / STEPS) * (1 + 0.1 * document) + own + noise * random.normal(size=DOCUMENTS)
            _write(folder / "state" / place / f"{name}.json", (base + labels * rise)[:count], labels[:count])
    facts = {
        "outcome": "Succeeded",
        "tokens": {"trained": STEPS * BATCH},
        "checkpoint": {"step": STEPS},
        "sets": {name: {"delta": {"mean": law(1.0)}} for name, law in laws.items()},
        "phases": [{"ratio": 0.05}, {"ratio": 0.2}],
        "decisions": [
            {"tokens": 0, "kind": "WeightsMoved", "weights": {name: 1 / len(laws) for name in laws}},
            {"tokens": 5 * BATCH, "kind": "RatioRaised", "ratio": 0.2},
        ],
    }
    edges = [{"source": "noisy", "helps": "clean", "weight": 0.1}]
    (folder / "snapshot.json").write_text(json.dumps({"mixture": {"skillGraph": {"edges": edges}}}))
    (folder / "report.json").write_text(json.dumps(facts))
    return Run(folder)


def _write(path: Path, nats: np.ndarray, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hashes = [f"document-{n}" for n in range(len(labels))]
    path.write_text(json.dumps({"hashes": hashes, "nats": nats.tolist(), "labels": labels.tolist()}))


def write_study(
    folder: Path,
    baseline: float = 3.0,
    ratios: Sequence[float] = (0, 0.1, 0.25, 0.5, 0.75),
    budgets: Sequence[int] = (),
) -> Run:
    """The part of a finished study's artefact that a finding reads: a law that is off by a thousandth.

    With several `budgets` their runs too: losses fall by a power of the tokens, so that a law can be fitted.
    """
    every = sorted({*ratios, 0.35})
    parameters = 529_056
    runs: list[dict[str, Any]] = []
    for tokens in budgets or (STEPS * BATCH,):
        for ratio in every:
            gain = 0.2 * (tokens / (STEPS * BATCH)) ** -0.3 if budgets else 0.0
            losses = {"general": baseline + 1 - ratio + gain, "german": 2 + ratio + gain}
            label = f"r{ratio}-t{tokens}"
            runs.append(
                {"label": label, "replay_ratio": ratio, "tokens": tokens, "held_out": ratio == 0.35, "losses": losses}
            )
            if len(budgets) > 1:
                fall = {name: -tokens / max(budgets) for name in losses}
                laws = {name: partial(_straight, each) for name, each in fall.items()}
                write_run(folder / "runs" / label, laws, noise=0.004)
    last = next(run for run in reversed(runs) if run["held_out"])["losses"]
    said = {
        name: {"loss": value * 1.001, "low": value * 0.99, "high": value * 1.01, "measured": value}
        for name, value in last.items()
    }
    share = {"tolerance": "3%", "replay_ratio": 0.4, "share": 0.6, "low": 0.5, "high": 0.7}

    def points(name: str, held_out: bool) -> list[dict[str, Any]]:
        return [
            {"run": run["label"], "parameters": parameters, "tokens": run["tokens"], "share": 1 - run["replay_ratio"],
             "loss": run["losses"][name], "final": True}
            for run in runs
            if run["held_out"] is held_out
        ]  # fmt: skip

    facts = {
        "models": [{"name": "", "parameters": parameters}],
        "runs": runs,
        "sets": {
            name: {
                "role": role,
                "baseline": [{"parameters": parameters, "loss": baseline}],
                "fitted": points(name, False),
                "held_out": points(name, True),
            }
            for name, role in (("general", "Retained"), ("german", "New"))
        },
        "laws": {name: {"dcpt": {"fit": {"r2": 0.99}}} for name in ("general", "german")},
        "answers": {"held_out": [{"replay_ratio": 0.35, "sets": said}], "largest_share": [share]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(facts))
    return Run(folder)


def _straight(end: float, share: float) -> float:
    return end * share
