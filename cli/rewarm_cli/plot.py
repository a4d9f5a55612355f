"""The picture of a plan: learning rate over tokens, its segments shaded, and below it where the rows come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewarm_api.errors import MissingInputError
from rewarm_api.quantity import format_tokens
from rewarm_api.snapshot import Plan, Snapshot
from rewarm_trainer.phases import PhasedMixture, requested_ratio
from rewarm_trainer.schedule import learning_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 400
# Okabe and Ito's colours: told apart by everybody. Replay takes the warm ones, the corpus the cool ones.
_REPLAY = ("#E69F00", "#D55E00", "#CC79A7", "#F0E442")
_CORPUS = ("#0072B2", "#56B4E9", "#009E73", "#999999")
_SHADES = {"Warmup": "#fde8c8", "Cooldown": "#d9e8f5", "Constant": "#ececec", "Decay": "#dcefe4", "Anneal": "#f6dfe6"}


def draw(path: Path, snapshot: Snapshot, plan: Plan, mixture: PhasedMixture) -> None:
    """Write the picture to `path`; its suffix decides the format (png, svg, pdf). MissingInputError: no such folder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    if not path.absolute().parent.is_dir():
        raise MissingInputError(f"{path}: its folder does not exist; make the folder or name another file for --plot")
    figure, (rates, shares) = pyplot.subplots(
        2, 1, figsize=(10, 6.4), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    _learning_rate(rates, plan)
    _mixture(shares, plan, mixture)
    asked = requested_ratio(plan, snapshot.replay.ratio)
    ratio = f"{asked:.4%} replay".replace(".0000%", "%") if asked else "no replay"
    rates.set_title(
        f"{snapshot.name}: {snapshot.schedule.kind}, "
        f"{format_tokens(plan.tokens)} tokens in {plan.steps} steps, {ratio}",
        loc="left",
        fontweight="bold",
    )
    shares.set_xlabel("tokens")
    shares.set_xlim(0, plan.tokens)
    shares.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: format_tokens(int(tokens))))
    try:
        figure.savefig(path, dpi=144)
    except ValueError as error:
        raise MissingInputError(f"{path}: {error}; name a .png, .svg or .pdf file for --plot") from None
    finally:
        pyplot.close(figure)


def _learning_rate(axes: Axes, plan: Plan) -> None:
    present = [segment for segment in plan.segments if segment.ends > segment.begins]
    positions = {round(plan.tokens * point / POINTS) for point in range(POINTS + 1)}
    for segment in present:
        # A short warm-up would fall between two points of the grid.
        positions.update(segment.begins + (segment.ends - segment.begins) * part // 16 for part in range(17))
        axes.axvspan(segment.begins, segment.ends, color=_SHADES[str(segment.kind)], linewidth=0)
    ordered = sorted(positions)
    axes.plot(ordered, [learning_rate(plan.segments, tokens) for tokens in ordered], color="#222222", linewidth=2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("learning rate")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    axes.grid(axis="y", color="#cccccc", linewidth=0.6)
    _legend(axes, [(str(segment.kind), _SHADES[str(segment.kind)]) for segment in present])


def _mixture(axes: Axes, plan: Plan, mixture: PhasedMixture) -> None:
    rows = plan.steps * plan.rows_per_step
    edges = sorted({rows * point // POINTS for point in range(POINTS + 1)})
    counts = [mixture.counts(edge) for edge in edges]
    names = [*sorted(mixture.replay), *sorted(mixture.corpus)]
    names = [name for name in names if counts[-1][name]]
    tokens = [plan.tokens * edge / rows for edge in edges]
    bottom = [0.0] * (len(edges) - 1)
    entries = []
    for name in names:
        palette, group = (_REPLAY, mixture.replay) if name in mixture.replay else (_CORPUS, mixture.corpus)
        color = palette[sorted(group).index(name) % len(palette)]
        # Realised rows of each stretch, not the share that was asked for.
        heights = [
            (after[name] - before[name]) / (end - start)
            for before, after, start, end in zip(counts, counts[1:], edges, edges[1:], strict=False)
        ]
        top = [low + height for low, height in zip(bottom, heights, strict=True)]
        axes.fill_between(tokens, [*bottom, bottom[-1]], [*top, top[-1]], step="post", color=color, linewidth=0)
        entries.append((f"{name} {counts[-1][name] / rows:.1%}", color))
        bottom = top
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of rows")
    # The legend reads as the picture does: from the top down.
    _legend(axes, entries[::-1])


def _legend(axes: Axes, entries: list[tuple[str, str]]) -> None:
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=color, label=label) for label, color in dict(reversed(entries)).items()]
    axes.legend(handles=handles[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
