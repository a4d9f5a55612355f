"""`rewarm validate`: every problem of a manifest at once, with the field to edit and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rewarm_api.errors import ManifestError, Problem
from rewarm_cli import document
from rewarm_cli.output import Output, emit, show, table, warn


def execute(path: Path, changes: Sequence[str], output: Output) -> int:
    """0 when valid, else 64. Raises MissingInputError (66) when there is no such file."""
    try:
        problems, warnings = _checked(path, changes)
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


def _checked(path: Path, changes: Sequence[str]) -> tuple[Sequence[Problem], Sequence[str]]:
    """Problems and warnings of either kind of manifest."""
    from rewarm_api.study import KIND
    from rewarm_api.study_rules import validate_study
    from rewarm_api.validate import validate

    given = document.read(path, changes)
    found = validate_study(given, local=None) if given.get("kind") == KIND else validate(given, local=None)
    return found.problems, found.warnings
