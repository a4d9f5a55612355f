"""The runs of a study as they are seen: whose they are, and how far each has come. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewarm_operator import conditions
from rewarm_operator.resources import STUDY

Json = Mapping[str, Any]


def studies_of(run: Json | None) -> set[str]:
    """Uids of the studies that own a run."""
    owners = (run or {"metadata": {}})["metadata"].get("ownerReferences") or ()
    return {str(owner.get("uid")) for owner in owners if owner.get("kind") == STUDY.kind}


def gist(run: Json | None) -> tuple[Any, ...]:
    """All that a study's decision reads of a run: two that are alike in this are alike to it."""
    if run is None:
        return ()
    metadata, status = run["metadata"], run.get("status") or {}
    told = [
        tuple(conditions.find(status, kind).get(name) for name in ("status", "reason", "message"))
        for kind in ("Succeeded", "DataReady", "Stalled")
    ]
    return (metadata["uid"], "deletionTimestamp" in metadata, metadata.get("annotations"), *told)


def has_succeeded(run: Json) -> bool:
    """Trained and judged, whatever it measured."""
    return conditions.find(run.get("status") or {}, "Succeeded").get("status") == "True"


def has_failed(run: Json) -> bool:
    """It ended without a verdict."""
    return conditions.find(run.get("status") or {}, "Succeeded").get("status") == "False"


def is_open(run: Json) -> bool:
    """It holds one of the study's places: it is neither finished nor failed."""
    return not (has_succeeded(run) or has_failed(run))


def is_prepared(run: Json) -> bool:
    """Its siblings find corpora and shards in the cache."""
    return conditions.find(run.get("status") or {}, "DataReady").get("status") == "True"
