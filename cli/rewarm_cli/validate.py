"""`rewarm validate`: every problem of a manifest at once, with the field to edit and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rewarm_api.errors import ManifestError
from rewarm_cli import document
from rewarm_cli.output import Output, emit, show, table, warn


def execute(path: Path, changes: Sequence[str], output: Output) -> int:
    """0 when valid, else 64. Raises MissingInputError (66) when there is no such file."""
    try:
        checked = document.check(path, changes, local=None)
        problems, warnings = checked.validation.problems, checked.validation.warnings
    except ManifestError as error:
        # Not readable at all: still an answer of validation, in the same form.
        problems, warnings = error.problems, ()
    if output is Output.JSON:
        emit(document.validation_json(problems, warnings))
    elif problems:
        rows = [(item.field or "(file)", item.found, item.expected, item.fix) for item in problems]
        count = "1 problem" if len(rows) == 1 else f"{len(rows)} problems"
        show(table(f"{path}: {count}", ("field", "found", "expected", "what to do"), rows, words=4))
    else:
        print(f"{path}: valid")
    if output is not Output.JSON:
        warn(warnings)
    return 64 if problems else 0
