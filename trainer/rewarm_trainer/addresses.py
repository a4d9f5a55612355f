"""Where the parts of a run on a cluster lie: under its checkpoints, in its cache, beside its siblings. Pure."""

from __future__ import annotations

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.snapshot import Snapshot


def join(uri: str, *parts: str) -> str:
    """An address below another."""
    return "/".join([uri.rstrip("/"), *parts])


def checkpoints_uri(snapshot: Snapshot) -> str:
    """Of a run on a cluster, where every run has one (64 otherwise)."""
    if snapshot.checkpoints.uri is None:
        fix = "set it, or the chart's default"
        raise ManifestError(Problem("spec.checkpoints.uri", "nothing", "s3:// or claim://", fix))
    return snapshot.checkpoints.uri


def cache_uri(snapshot: Snapshot) -> str:
    """The shared cache of a run on a cluster: as asked, else beside its checkpoints."""
    return snapshot.cache_uri or join(checkpoints_uri(snapshot), "cache")


def sibling_uri(snapshot: Snapshot, name: str, field: str) -> str:
    """Where the run `name` keeps its checkpoints, if all runs lie side by side, each under its own name."""
    parent, _, own = checkpoints_uri(snapshot).rstrip("/").rpartition("/")
    if own != snapshot.name:
        raise ManifestError(
            Problem(
                field,
                name,
                f"runs that lie side by side: spec.checkpoints.uri ({snapshot.checkpoints.uri}) does not end in "
                f"/{snapshot.name}/, so where run {name} lies is not known",
                "leave checkpoints.uri to the chart's default, or let it end in the run's name",
            )
        )
    return join(parent, name)
