"""`rewarm run`: one run on this machine. Thin: the trainer does the work and writes the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rewarm_api.errors import ManifestError, RewarmError
from rewarm_cli import document
from rewarm_cli.output import Output, emit, say, warn
from rewarm_cli.plan import refuse


def execute(
    path: Path,
    changes: Sequence[str],
    workdir: Path | None,
    processes: int,
    metrics_port: int | None,
    output: Output,
) -> int:
    """The exit code of the run (trainer.md). The last line of standard output is the path of report.json."""
    try:
        checked = document.check(path, changes, local=True)
    except ManifestError as error:
        return refuse(document.validation_json(error.problems), error, output)
    validation = checked.validation
    if not validation.valid or validation.run is None:
        return refuse(checked.problems_json(), ManifestError(validation.problems), output)
    warn(validation.warnings)
    if validation.unused:
        say(f"a local run has no use for: {', '.join(validation.unused)}")

    from rewarm_trainer.run import run_local

    folder = workdir or Path("runs") / validation.run.metadata.name
    try:
        code = run_local(checked.document, path, folder, processes=processes, metrics_port=metrics_port)
    except RewarmError as error:
        _show_report(folder, error.cause, output)
        raise
    _show_report(folder, None if code else "Succeeded", output)
    return code


def _show_report(folder: Path, outcome: str | None, output: Output) -> None:
    """The path of report.json, or its content; not one that tells of an earlier start with another `outcome`."""
    from rewarm_trainer.report import load_report

    try:
        report = load_report(folder)
    except RewarmError:
        return
    if outcome is not None and report["outcome"] != outcome:
        return
    if output is Output.JSON:
        emit(report)
    else:
        print(folder.absolute() / "report.json")
