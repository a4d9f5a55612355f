"""Figures of the findings: panels side by side, drawn from what was measured, the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rewarm_bench.effects import Estimate
from science.results import Runs, curves

Panel = Callable[[Axes], None]
COLOURS = ("#1b4f72", "#c0392b", "#1e8449", "#b9770e", "#6c3483", "#2e4053", "#7b7d7d", "#117a65", "#943126")


def save(path: Path, panels: Sequence[Panel]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "rewarm", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.6 * len(panels), 3.4), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(panels)))
        for panel, draw in zip(axes, panels, strict=True):
            draw(panel)
            panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})


def rises(axes: Axes, arms: Mapping[str, Runs], name: str, title: str) -> None:
    """Loss above the base against tokens: the mean over seeds as a line, each seed thin behind it."""
    for colour, (label, runs) in zip(cycle(COLOURS), arms.items(), strict=False):
        tokens, values = curves(runs, name)
        for seed in values:
            axes.plot(tokens / 1e3, seed, color=colour, alpha=0.25, linewidth=0.7)
        axes.plot(tokens / 1e3, values.mean(axis=0), color=colour, label=label, linewidth=1.6)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="thousand tokens", ylabel="nats per token above the base", title=title)
    axes.legend(fontsize=7, frameon=False)


def plane(axes: Axes, points: Mapping[str, tuple[Estimate, Estimate]], old: str, new: str) -> None:
    """Each arm as a cross: change on the old text against change on the new one, with both intervals."""
    for number, (colour, (label, (x, y))) in enumerate(zip(cycle(COLOURS), points.items(), strict=False), start=1):
        reach, named = {"xerr": _reach(x), "yerr": _reach(y)}, f"{number} {label}"
        axes.errorbar(x.value, y.value, **reach, fmt="o", color=colour, markersize=4, capsize=2, label=named)
        axes.annotate(str(number), (x.value, y.value), xytext=(3, 3), textcoords="offset points", color=colour)
    # Below the plane: arms that end in the same place would write over each other on it.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=6, frameon=False)
    axes.set(xlabel=f"change on {old} (old)", ylabel=f"change on {new} (new)", title="old against new")


def ladder(axes: Axes, series: Mapping[str, Sequence[tuple[str, Estimate]]], ylabel: str, title: str) -> None:
    """Estimates with intervals over named steps, one line a series."""
    for colour, (label, steps) in zip(cycle(COLOURS), series.items(), strict=False):
        names, found = [name for name, _ in steps], [estimate for _, estimate in steps]
        reach = np.hstack([_reach(estimate) for estimate in found])
        axes.errorbar(names, [e.value for e in found], yerr=reach, color=colour, label=label, marker="o", capsize=2)
    axes.set(ylabel=ylabel, title=title)
    axes.legend(fontsize=7, frameon=False)


def _reach(estimate: Estimate) -> np.ndarray:
    """Length of the interval below and above, shape (2, 1); nothing where it is not known."""
    reach = np.array([[estimate.value - estimate.low], [estimate.high - estimate.value]])
    return np.nan_to_num(reach)
