"""The picture of a study: for each set the measured losses over the replay ratio, the fitted law, and the choice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarm_api.quantity import format_tokens, parse_percent
from rewarm_api.snapshot import Role
from rewarm_trainer.laws.answers import Study
from rewarm_trainer.laws.fitting import CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by everybody: one for each model and budget.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_COLUMNS = 2


def draw(path: Path, artefact: Mapping[str, Any], study: Study) -> None:
    """Write the picture; the suffix of `path` decides the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted(study.sets, key=lambda name: (study.sets[name].role is Role.RETAINED, name))
    rows = -(-len(names) // _COLUMNS)
    figure, grid = pyplot.subplots(
        rows, _COLUMNS, figsize=(5.6 * _COLUMNS, 4.4 * rows + 0.9), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid.flat, names, strict=False):
        _panel(axes, name, artefact, study)
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(_title(artefact), x=0.01, ha="left", fontweight="bold")
    try:
        figure.savefig(path, dpi=144)
    finally:
        pyplot.close(figure)


def _title(artefact: Mapping[str, Any]) -> str:
    answers = [answer for answer in artefact["answers"]["largest_share"] if answer["replay_ratio"] is not None]
    if not answers:
        return f"{artefact['name']}: no measured ratio keeps the tolerance of {artefact['tolerance']}"
    last = answers[-1]
    bound = ", the least that was measured," if last["at_border"] else ""
    where = f"{format_tokens(last['tokens'])} tokens" + (f", {last['model']}" if last["model"] else "")
    return f"{artefact['name']}: {last['replay_ratio']:.2%} replay{bound} keeps {artefact['tolerance']} ({where})"


def _panel(axes: Axes, name: str, artefact: Mapping[str, Any], study: Study) -> None:
    laws = study.sets[name]
    points = artefact["sets"][name]
    models = {model["parameters"]: model["name"] for model in artefact["models"]}
    shares = np.linspace(*study.hull.shares, 120)
    places = sorted({(run["parameters"], run["tokens"]) for run in artefact["runs"]})
    for number, (parameters, tokens) in enumerate(places):
        colour = _COLOURS[number % len(_COLOURS)]
        label = " ".join(filter(None, (models[parameters], f"{format_tokens(tokens)} tokens")))
        for key, marker, fill in (("fitted", "o", colour), ("held_out", "D", "none")):
            own = [p for p in points[key] if p["final"] and (p["parameters"], p["tokens"]) == (parameters, tokens)]
            shown: dict[str, Any] = {"marker": marker, "facecolors": fill, "edgecolors": colour, "zorder": 3, "s": 34}
            words = label if key == "fitted" else "held out of the fit"
            axes.scatter([1 - p["share"] for p in own], [p["loss"] for p in own], label=words if own else None, **shown)
        curves = laws.curves(parameters, tokens)
        if curves is None:
            continue
        axes.plot(1 - shares, [curves.losses[0](share) for share in shares], color=colour, linewidth=1.6)
        if len(curves.losses) > 1:
            values = np.array([[curve(share) for share in shares] for curve in curves.losses[1:]])
            band = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
            axes.fill_between(1 - shares, *band, color=colour, alpha=0.15, linewidth=0)
        if laws.role is Role.RETAINED:
            _choice(axes, artefact, laws.baseline[parameters], parameters, models, tokens, colour)
    _scale(axes, points)
    axes.set_title(f"{name} ({laws.role})", loc="left")
    axes.set_xlabel("replay ratio")
    axes.set_ylabel("loss, nats per token")
    axes.grid(color="#dddddd", linewidth=0.6)


def _choice(
    axes: Axes,
    artefact: Mapping[str, Any],
    baseline: float,
    parameters: int,
    models: Mapping[int, str],
    tokens: int,
    colour: str,
) -> None:
    """The base's loss, the tolerated one, and the ratio that keeps to it."""
    limit = baseline * (1 + float(parse_percent(artefact["tolerance"])) / 100)
    axes.axhline(baseline, color="#777777", linestyle=":", linewidth=1.2, label="base")
    axes.axhline(limit, color="#777777", linestyle="--", linewidth=1.2, label=f"tolerated ({artefact['tolerance']})")
    for answer in artefact["answers"]["largest_share"]:
        if answer["replay_ratio"] is not None and (answer["model"], answer["tokens"]) == (models[parameters], tokens):
            ratio = answer["replay_ratio"]
            axes.axvline(ratio, color=colour, linestyle="-.", linewidth=1.2, label=f"chosen: {ratio:.4g}")


def _scale(axes: Axes, points: Mapping[str, Any]) -> None:
    """Room for the points; a base far away from them must not squeeze them."""
    losses = [point["loss"] for key in ("fitted", "held_out") for point in points[key] if point["final"]]
    room = 0.15 * (max(losses) - min(losses)) or 0.01
    axes.set_ylim(min(losses) - room, max(losses) + room)
