"""Whether a manifest still is the experiment of a work folder, and fits this start: the fields that say it does not.

Pure: snapshots, and the manifests that they were made from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rewarm_api.errors import ManifestError
from rewarm_api.rules import batch_problems
from rewarm_api.snapshot import Group, Snapshot

_SCHEDULE_PART = re.compile(r"(cooldown|anneal)([A-Z]\w*)")
_INDEX = re.compile(r"(.+)\[(\d+)\]")


@dataclass(frozen=True)
class Change:
    """A field of the manifest that now means something else."""

    field: str
    old: Any
    new: Any


def changes(stored: Snapshot, asked: Snapshot, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Every field in which `asked` (of the manifest `now`) differs from `stored` (of `before`).

    What stands in neither manifest follows from other fields and is named only when nothing else is.
    """
    old = _as_manifest(stored.experiment(), before)
    new = _as_manifest(asked.experiment(), now)
    found = list(_differing(old, new, ""))
    written = [change for change in found if _stands(change.field, before) or _stands(change.field, now)]
    return written or found


def _as_manifest(experiment: dict[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment under the names and in the places of a manifest. The plan is left out: it follows from others."""
    spec = {key: value for key, value in experiment.items() if key not in ("version", "name", "plan")}
    kind = spec["baseModel"]["kind"]
    spec["baseModel"] = {kind: spec["baseModel"]["options"]}
    spec["budget"] = {key: value for key, value in spec["budget"].items() if value is not None}
    if "finish" in spec:
        spec["finish"] = [{step["kind"]: step["options"]} for step in spec["finish"]]
    spec["cache"] = {"uri": spec.pop("cacheUri")}
    if cited := spec["replay"].pop("cited", None):
        spec["replay"]["ratio"] = cited["asked"]
    if asked := spec["replay"].pop("asked", None):
        spec["replay"]["ratio"] = asked
    sources = spec.pop("sources")
    for group, place in ((Group.CORPUS, "corpus"), (Group.REPLAY, "replay")):
        own = [
            {key: value for key, value in source.items() if key != "group"}
            for source in sources
            if source["group"] == group
        ]
        spec[place] = {**spec.get(place, {}), "sources": _in_order_of(document, place, own)}
    schedule: dict[str, Any] = {}
    for key, value in spec["schedule"].items():
        part = _SCHEDULE_PART.fullmatch(key)
        if part:
            schedule.setdefault(part[1], {})[part[2][0].lower() + part[2][1:]] = value
        else:
            schedule[key] = value
    spec["schedule"] = schedule
    return {"metadata": {"name": experiment["name"]}, "spec": spec}


def _in_order_of(document: Mapping[str, Any], place: str, sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A snapshot sorts its sources by name; fields are named by where they stand in the manifest."""
    group = (document.get("spec") or {}).get(place) or {}
    names = [source.get("name") for source in group.get("sources") or ()]
    return sorted(sources, key=lambda source: names.index(source["name"]) if source["name"] in names else len(names))


def _differing(old: Any, new: Any, path: str) -> Iterator[Change]:
    if path in _UNIONS and isinstance(old, dict) and isinstance(new, dict) and old.keys() != new.keys():
        yield Change(path, old, new)
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differing(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differing(before, after, f"{path}[{number}]")
    elif old != new:
        yield Change(path, old, new)


_UNIONS = ("spec.baseModel", "spec.budget")


def _stands(field: str, document: Any) -> bool:
    """Whether a manifest has something written at a field."""
    for part in field.split("."):
        index = _INDEX.fullmatch(part)
        name = index[1] if index else part
        document = document.get(name) if isinstance(document, Mapping) else None
        if index and isinstance(document, list):
            document = document[int(index[2])] if int(index[2]) < len(document) else None
        if document is None:
            return False
    return True


def needs_whole(snapshot: Snapshot) -> str:
    """The field for which weights stay whole on every process; empty where they may be sharded."""
    if snapshot.training.lora is not None:
        return "spec.training.adaptation: LoRA"
    if snapshot.replay.meta_experience is not None:
        return "spec.replay.method: MetaExperienceReplay"
    return "spec.evaluation.benchmarks" if snapshot.evaluation.benchmarks else ""


def processes_problem(snapshot: Snapshot, processes: int) -> ManifestError | None:
    """Why the global batch cannot be cut into equal parts for `processes`; None if it can."""
    problem = next(batch_problems(snapshot.training, processes), None)
    return ManifestError(problem) if problem else None
