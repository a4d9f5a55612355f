"""Validates a run and takes its snapshot: once, then never again. Pure.

The newest answers are remembered, each with the spec that it is for: a run is looked at several times before its
snapshot is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewarm_api.defaults import Defaults, cluster_problems
from rewarm_api.errors import ManifestError, Problem
from rewarm_api.resolve import resolve
from rewarm_api.validate import validate
from rewarm_operator.settings import Settings

_REMEMBERED = 256


@dataclass(frozen=True)
class Resolved:
    """`snapshot` as it is stored (JSON with its digest); None when there are problems."""

    problems: tuple[Problem, ...]
    snapshot: Mapping[str, Any] | None = None


_memory: OrderedDict[tuple[str, str, Defaults], tuple[Any, Resolved]] = OrderedDict()


def resolved(run: Mapping[str, Any], settings: Settings) -> Resolved:
    """The snapshot of a run as its spec stands now, or everything that is wrong with it."""
    metadata = run["metadata"]
    defaults = Defaults(
        settings.default_checkpoints_uri,
        settings.default_cache_uri,
        settings.default_tracking_uri,
        str(metadata["namespace"]),
    )
    key, spec = (str(metadata["uid"]), str(metadata["name"]), defaults), run.get("spec")
    known = _memory.get(key)
    if known is None or known[0] != spec:
        known = _memory[key] = (spec, _resolve(run, defaults))
        if len(_memory) > _REMEMBERED:
            _memory.popitem(last=False)
    return known[1]


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
