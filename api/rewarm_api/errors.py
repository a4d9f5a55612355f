"""Every way a run can end badly, with the exit code that the operator reads (design: trainer.md, "Exit codes").

Decides nothing; it only names. A message is one line that says what was found, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rewarm_api.redaction import redacted


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a manifest: the field to edit, what stands there (without passwords), what may stand there,
    what to do."""

    field: str
    found: str
    expected: str
    fix: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", redacted(self.found))

    def __str__(self) -> str:
        return f"{self.field or 'manifest'}: found {self.found}, expected {self.expected}; {self.fix}"

    def to_json(self) -> dict[str, str]:
        return asdict(self)


class RewarmError(Exception):
    """Something went wrong in a way that has a name. `exit_code` and `cause` are the contract with the operator."""

    exit_code = 70
    cause = "Unknown"

    def __init__(self, message: str = "") -> None:
        """Addresses in the message lose user and password: they come from environments too (AWS_ENDPOINT_URL)."""
        super().__init__(redacted(message))


class ManifestError(RewarmError):
    """The manifest, or the experiment in the work folder, contradicts itself (64)."""

    exit_code = 64
    cause = "InvalidSpec"

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(RewarmError):
    """Data is broken, or is not what was pinned (65)."""

    exit_code = 65
    cause = "BadData"


class MissingInputError(RewarmError):
    """A file, a glob's matches or a base model is not there (66)."""

    exit_code = 66
    cause = "MissingInput"


class DependencyError(RewarmError):
    """Disk full, a folder held by another writer, or a service that stayed away too long (75)."""

    exit_code = 75
    cause = "DependencyUnavailable"


class DivergedError(RewarmError):
    """Training diverged and the rollback budget is spent (76)."""

    exit_code = 76
    cause = "Diverged"


class Preempted(RewarmError):
    """Asked to stop; the step is finished and a checkpoint is committed (143)."""

    exit_code = 143
    cause = "Preempted"
