"""`rewarm report`: the report of a run again, as tables, JSON or one self-contained page."""

from __future__ import annotations

from pathlib import Path

from rewarm_cli.output import Output, emit, say, show


def execute(folder: Path, html: Path | None, output: Output) -> int:
    """0. Raises MissingInputError (66) when the folder holds no report."""
    from rewarm_trainer.report import load_report

    report = load_report(folder)
    if html is not None:
        from rewarm_trainer.files import write_bytes
        from rewarm_trainer.report_html import render_folder

        write_bytes(html, render_folder(folder).encode())
        say(f"report page: {html}")
    if output is Output.JSON:
        emit(report)
    else:
        from rewarm_trainer.verdict_view import report_view

        show(*report_view(report))
    return 0
