"""`rewarm merge`: models made of models. Thin: the trainer does the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rewarm_api.errors import ManifestError, Problem
from rewarm_cli.output import Output, emit, show, table

app = typer.Typer(
    name="merge",
    help="Make a model of models, without training: averages, soups, a way back to the base, instruction residuals.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class AverageKind(StrEnum):
    SMA = "SMA"
    EMA = "EMA"
    GEOMETRIC = "GeometricEMA"


class SoupKind(StrEnum):
    GREEDY = "Greedy"
    UNIFORM = "Uniform"


Out = Annotated[Path, typer.Argument(metavar="OUT", help="the folder to write", show_default=False)]
Model = Annotated[
    Path, typer.Argument(metavar="DIR", help="a run's work folder, or a model folder", show_default=False)
]
Form = Annotated[Output, typer.Option("-o", "--output", help="table for people, json for scripts")]
Reference = Annotated[
    Path | None,
    typer.Option("--on", metavar="RUN", help="choose and judge on this run's held-out documents", show_default=False),
]
Judge = Annotated[bool, typer.Option("--judge/--no-judge", help="score the result where a run is known")]
Base = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="the base model [default: that of the run]", show_default=False),
]


@app.command()
def average(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the work folder of a run", show_default=False)],
    out: Out,
    last: Annotated[int, typer.Option(min=2, metavar="N", help="how many of the last checkpoints")] = 6,
    kind: Annotated[
        AverageKind, typer.Option(help="all alike, or one of the two averages called EMA")
    ] = AverageKind.SMA,
    alpha: Annotated[float, typer.Option(help="of EMA and GeometricEMA")] = 0.2,
    judge: Judge = True,
    output: Form = Output.TABLE,
) -> None:
    """Average the last checkpoints of a run."""
    if not 0 < alpha <= 1:
        raise ManifestError(Problem("--alpha", str(alpha), "0 < alpha <= 1", "use 0.2"))
    from rewarm_trainer.weights import command

    _tell(command.average(folder, out, last=last, kind=kind.value, alpha=alpha, judge=judge), output)


@app.command()
def soup(
    paths: Annotated[
        list[Path], typer.Argument(metavar="A B... OUT", help="two models or more, then the folder to write")
    ],
    kind: Annotated[SoupKind, typer.Option(help="keep what lowers the loss, or all")] = SoupKind.GREEDY,
    reference: Reference = None,
    judge: Judge = True,
    output: Form = Output.TABLE,
) -> None:
    """Average models of several runs from one ancestor."""
    if len(paths) < 3:
        raise ManifestError(
            Problem("A B... OUT", f"{len(paths)} folders", "two models or more, then the folder to write", "name them")
        )
    from rewarm_trainer.weights import command

    _tell(command.soup(paths[:-1], paths[-1], kind=kind.value, on=reference, judge=judge), output)


@app.command()
def interpolate(
    folder: Model,
    out: Out,
    towards_base: Annotated[
        str, typer.Option(metavar="A|auto", help="0: as trained, 1: the base; auto: chosen on held-out documents")
    ] = "auto",
    base: Base = None,
    reference: Reference = None,
    judge: Judge = True,
    output: Form = Output.TABLE,
) -> None:
    """Go back towards the base: less forgotten, less learned."""
    from rewarm_trainer.weights import command

    coefficient = _coefficient(towards_base)
    _tell(command.interpolate(folder, out, towards_base=coefficient, base=base, on=reference, judge=judge), output)


@app.command()
def residual(
    folder: Model,
    out: Out,
    instruct: Annotated[Path, typer.Option(metavar="DIR", help="the instruct model of the base", show_default=False)],
    base: Base = None,
    judge: Judge = True,
    output: Form = Output.TABLE,
) -> None:
    """Add what instruction tuning had changed in the base: trained + (instruct - base)."""
    from rewarm_trainer.weights import command

    _tell(command.residual(folder, out, instruct=instruct, base=base, judge=judge), output)


def _coefficient(text: str) -> float | str:
    if text.lower() == "auto":
        return "Auto"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ManifestError(Problem("--towards-base", text, "auto, or a number from 0 to 1", "use 0.3, or auto"))
    return value


def _tell(result: Mapping[str, Any], output: Output) -> None:
    """The path of the folder last; before it what went in and what came out."""
    if output is Output.JSON:
        emit(result)
        return
    rows = [
        (line.get("run") or line["label"], str(line.get("step", "")), f"{line.get('coefficient', 1):.4g}")
        for line in result["inputs"]
    ]
    show(table(_title(result), ("model", "step", "weighs"), rows))
    if "sets" in result:
        show(table(f"against the base of {result['judged_by']}", _COLUMNS, _rows(result["sets"]), words=3))
    print(result["path"])


_COLUMNS = ("set", "role", "verdict", "documents", "delta [95 %]")


def _title(result: Mapping[str, Any]) -> str:
    if result["kind"] == "interpolate":
        return f"{result['towardsBase']:g} of the way back to the base"
    return {"average": "average of the last checkpoints", "soup": "soup"}.get(result["kind"], "instruction residual")


def _rows(sets: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    from rewarm_trainer.verdict_view import interval

    return [
        (name, item["role"], item["verdict"] or "–", str(item["documents"]), interval(item["delta"]))
        for name, item in sets.items()
    ]
