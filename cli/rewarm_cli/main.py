"""`rewarm`: the commands, their options, and how errors become lines and exit codes.

Decides nothing else. Each command's work is in the module of its name, imported when it runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rewarm_api.errors import RewarmError
from rewarm_cli import cluster_commands, merge
from rewarm_cli.output import Output, say

USAGE = 64
INTERNAL = 70
INTERRUPTED = 130
# What the option parser exits with when it does not understand its arguments.
_PARSER_USAGE = 2

app = typer.Typer(
    name="rewarm",
    help="Continual pretraining: re-warm, replay, and an honest verdict on what was forgotten.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 64 manifest or usage, 65 data, 66 missing file, 70 internal error, "
    "75 disk full or a dependency is away, 76 diverged, 143 stopped with a checkpoint committed; on a cluster also "
    "1 the run ended otherwise or the answer is no, 124 not there in time.",
)

plugin = typer.Typer(
    name="kubectl rewarm",
    add_completion=False,
    help="Continual pretraining on this cluster: submit runs, follow them, and judge what they forgot.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 the run ended otherwise or the answer is no, 64 refused, 66 not there, "
    "75 the API server is away, 124 not there in time.",
)

Manifest = Annotated[Path, typer.Argument(metavar="FILE", help="a ContinualRun manifest (YAML)", show_default=False)]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="the work folder of a run", show_default=False)]
Form = Annotated[Output, typer.Option("-o", "--output", help="table for people, json for scripts")]
Change = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="change one field, e.g. spec.replay.ratio=0.1; again for more"),
]


@app.command()
def validate(file: Manifest, change: Change = None, output: Form = Output.TABLE) -> None:
    """Say everything that is wrong with a manifest, all at once."""
    from rewarm_cli import validate as command

    raise typer.Exit(command.execute(file, change or [], output))


@app.command()
def plan(
    file: Manifest,
    at: Annotated[str, typer.Option(metavar="T,T,...", help="learning rate and mixture there (20M, 2B)")] = "",
    plot: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="draw learning rate and mixture", show_default=False)
    ] = None,
    change: Change = None,
    output: Form = Output.TABLE,
) -> None:
    """Show what a run would do, without training.

    Derived numbers, schedule, mixture and cost. Corpora are prepared only when weights or epochs default to counts.
    """
    from rewarm_cli import plan as command

    raise typer.Exit(command.execute(file, change or [], at, plot, output))


@app.command()
def run(
    file: Manifest,
    workdir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="the run's own folder [default: runs/NAME]", show_default=False)
    ] = None,
    processes: Annotated[int, typer.Option(metavar="N", min=1, help="training processes on this machine")] = 1,
    change: Change = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65535, help="serve Prometheus metrics [default: off]"),
    ] = None,
    output: Form = Output.TABLE,
) -> None:
    """Prepare, train, judge and register; resume by itself.

    When its folder holds a committed checkpoint, the run goes on from there; the manifest must be the same.
    Ctrl-C finishes the step, commits a checkpoint and exits 143; a second Ctrl-C stops at once.
    """
    from rewarm_cli import run as command

    raise typer.Exit(command.execute(file, change or [], workdir, processes, metrics_port, output))


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a MixtureStudy manifest (YAML)", show_default=False)],
    workdir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="the study's own folder [default: studies/NAME]", show_default=False),
    ] = None,
    at: Annotated[str, typer.Option(metavar="RATIO@T,...", help="predict the losses there (0.3@20M)")] = "",
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="answer --at outside what was measured too")
    ] = False,
    change: Change = None,
    output: Form = Output.TABLE,
) -> None:
    """Try mixtures on a grid, and fit the law that says which one to take.

    Started again it goes on where it was stopped; a finished study trains nothing more.
    """
    from rewarm_cli import study as command

    raise typer.Exit(command.execute(file, change or [], workdir, at, extrapolate, output))


@app.command()
def report(
    folder: Folder,
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="write the report page, one file", show_default=False)
    ] = None,
    output: Form = Output.TABLE,
) -> None:
    """Show the report of a run again."""
    from rewarm_cli import report as command

    raise typer.Exit(command.execute(folder, html, output))


@app.command()
def checkpoints(
    folder: Folder,
    verify: Annotated[bool, typer.Option("--verify", help="read every file and compare its digest")] = False,
    output: Form = Output.TABLE,
) -> None:
    """List every checkpoint of a run, and whether it is whole."""
    from rewarm_cli import checkpoints as command

    raise typer.Exit(command.execute(folder, verify, output))


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder to write", show_default=False)],
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="e.g. step-00001200, Latest or Best [default: Final]", show_default=False),
    ] = None,
) -> None:
    """Write a checkpoint as a Hugging Face model folder.

    Its digests are verified first.
    """
    from rewarm_cli import export as command

    raise typer.Exit(command.execute(folder, checkpoint, out))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="a run's or a model's folder", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="the one to compare with it", show_default=False)],
    output: Form = Output.TABLE,
) -> None:
    """Compare two runs or models, paired per document.

    Deltas are B minus A, in nats per token: below zero, B is better.
    """
    from rewarm_cli import compare as command

    raise typer.Exit(command.execute(Path(first), Path(second), output))


app.add_typer(merge.app)
cluster_commands.add_to(app)


@app.command()
def version(output: Form = Output.TABLE) -> None:
    """Show the versions of rewarm and of what it stands on."""
    from rewarm_cli import version as command

    raise typer.Exit(command.execute(output))


# What one does with a cluster needs these beside the words; what happens on this machine stays with `rewarm`.
cluster_commands.add_to(plugin)
for _command in (validate, plan, version):
    plugin.command()(_command)


def main() -> None:
    """Entry point of the console script: runs one command and exits with the code of the contract (trainer.md)."""
    sys.exit(_outcome(app, None))


def kubectl_plugin() -> None:
    """Entry point of `kubectl-rewarm`, which kubectl finds on PATH and calls as `kubectl rewarm`."""
    sys.exit(_outcome(plugin, "kubectl rewarm"))


def _outcome(commands: typer.Typer, name: str | None) -> int:
    try:
        try:
            commands(prog_name=name)
        finally:
            sys.stdout.flush()
    except SystemExit as finished:
        code = finished.code if isinstance(finished.code, int) else int(finished.code is not None)
        return USAGE if code == _PARSER_USAGE else code
    except RewarmError as error:
        for line in str(error).splitlines() or [error.cause]:
            say(f"error: {line}")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough (`rewarm ... | head`): nothing more to say, not even at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        import traceback

        traceback.print_exc()
        say(
            f"error: internal error: {type(error).__name__}: {error}; this is a fault of rewarm, not of your manifest: "
            "please report it with the lines above"
        )
        return INTERNAL
    return 0
