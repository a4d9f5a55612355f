"""From a manifest file to a resolved snapshot, the same way for every command.

Decides nothing: reading, validation and resolution are `rewarm_api`'s.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewarm_api.errors import ManifestError, Problem

if TYPE_CHECKING:
    from rewarm_api.snapshot import Snapshot
    from rewarm_api.validate import Validation


@dataclass(frozen=True)
class Checked:
    """A manifest that was read, changed by `--set`, and validated; `validation.valid` says how that went."""

    path: Path
    document: dict[str, Any]
    validation: Validation

    def problems_json(self) -> dict[str, Any]:
        """The JSON of `rewarm validate`."""
        return validation_json(self.validation.problems, self.validation.warnings)

    def snapshot(self) -> Snapshot:
        """The resolved run; raises ManifestError (64) with all problems when the manifest is not valid."""
        from rewarm_api.corpus import CitedRatio
        from rewarm_api.resolve import resolve

        run = self.validation.run
        if run is None or not self.validation.valid:
            raise ManifestError(self.validation.problems)
        cited = None
        if run.spec.replay is not None and isinstance(run.spec.replay.ratio, CitedRatio):
            from rewarm_trainer.study.citation import cite

            cited = cite(run, self.path.absolute().parent)
        return resolve(run, uid=str(uuid.uuid4()), cited=cited)


def validation_json(problems: Sequence[Problem], warnings: Sequence[str] = ()) -> dict[str, Any]:
    """`{"valid", "problems": [{"field", "found", "expected", "fix"}], "warnings"}` (design: cli.md)."""
    return {
        "valid": not problems,
        "problems": [problem.to_json() for problem in problems],
        "warnings": list(warnings),
    }


def read(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The document of a manifest with every `path=value` of `--set` applied, in order.

    Raises MissingInputError (66) when there is no such file, ManifestError (64) when it is not readable.
    """
    from rewarm_api.manifest import read_manifest

    document = read_manifest("/dev/stdin" if str(path) == "-" else path)
    change(document, changes)
    return document


def change(document: dict[str, Any], changes: Sequence[str]) -> None:
    """Apply every `path=value` of `--set`, in order and in place. Raises ManifestError (64)."""
    from rewarm_api.manifest import set_path

    for item in changes:
        field, separator, value = item.partition("=")
        if not separator or not field:
            raise ManifestError(
                Problem(field, f"--set {item}", "--set path=value", "write for example --set spec.replay.ratio=0.1")
            )
        set_path(document, field, value)


def check(path: Path, changes: Sequence[str] = (), *, local: bool | None) -> Checked:
    """Read and validate a manifest; problems are in the answer, not raised. `local` None: wherever it may run."""
    from rewarm_api.study_rules import no_study
    from rewarm_api.validate import Validation, validate

    document = read(path, changes)
    study = no_study(document)
    return Checked(path, document, Validation((study,), (), None, ()) if study else validate(document, local=local))
