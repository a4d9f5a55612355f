"""Validates a run and takes its snapshot: once, then never again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewarm_api.defaults import Defaults, cluster_problems
from rewarm_api.errors import ManifestError, Problem
from rewarm_api.resolve import resolve
from rewarm_api.validate import validate
from rewarm_operator.remembered import Remembered


@dataclass(frozen=True)
class Resolved:
    """`snapshot` as it is stored (JSON with its digest); None when there are problems."""

    problems: tuple[Problem, ...]
    snapshot: Mapping[str, Any] | None = None


def _resolve(run: Mapping[str, Any], defaults: Defaults) -> Resolved:
    validation = validate(run, local=False)
    if validation.run is None:
        return Resolved(validation.problems)
    problems = cluster_problems(validation.run, defaults)
    if problems:
        return Resolved(problems)
    try:
        snapshot = resolve(validation.run, uid=str(run["metadata"]["uid"]), defaults=defaults)
    except ManifestError as error:
        return Resolved(error.problems)
    return Resolved((), {**snapshot.to_json(), "digest": snapshot.digest})


resolved = Remembered(_resolve, 256)
"""The snapshot of a run as its spec stands now, or everything that is wrong with it: `resolved(run, settings)`."""
