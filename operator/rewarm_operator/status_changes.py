"""What a merge-patch has to say to turn one status into another, and whether that can wait. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_MAY_WAIT = frozenset(
    {
        "progress", "learningRate", "phase", "evaluation", "forgetting", "gain", "gates", "replay", "checkpoint",
        "committedStep", "runs", "summary", "counts", "attempts", "conditions",
    }
)  # fmt: skip
"""What heartbeats move; of the last three only parts (see `is_quiet`)."""
_NEEDED = frozenset(
    {"conditions", "counts", "attempts", "snapshotDigest", "observedGeneration", "trainingSeconds"}
)  # fmt: skip
"""What later decisions stand on: without these nothing may be done."""
_BY_HEARTBEAT = ("firstStep", "lastStep", "tokensRecomputed")


def changes_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The smallest merge-patch: nested mappings by key, None removes, lists are replaced whole."""
    changes: dict[str, Any] = {}
    for key in before.keys() - after.keys():
        changes[key] = None
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            inner = changes_of(old, value)
            if inner:
                changes[key] = inner
        elif old != value:
            changes[key] = value
    return changes


def without_refused(changes: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """What to try once the API server has refused `changes` for these fields of the object; what is needed stays.

    When it names nothing that can be done without, only what is needed is left.
    """
    named = {found[1] for found in (re.match(r"status\.(\w+)", field) for field in fields) if found} - _NEEDED
    if named & changes.keys():
        return {name: value for name, value in changes.items() if name not in named}
    return {name: value for name, value in changes.items() if name in _NEEDED}


def is_quiet(changes: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether only numbers move, and nothing that a person or a later decision waits for."""
    if not changes.keys() <= _MAY_WAIT:
        return False
    if "conditions" in changes and _verdicts(before) != _verdicts(after):
        return False
    if "attempts" in changes and _ends(before) != _ends(after):
        return False
    counts = changes.get("counts") or {}
    # A new commit clears the failures: that may wait for the next patch. Anything that goes up may not.
    return all(name == "failures" and value == 0 for name, value in counts.items())


def _verdicts(status: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    names = ("type", "status", "reason", "observedGeneration")
    return [tuple(each.get(name) for name in names) for each in status.get("conditions") or ()]


def _ends(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = status.get("attempts") or ()
    return [{key: value for key, value in entry.items() if key not in _BY_HEARTBEAT} for entry in entries]
