"""What a cluster's chart fills in where a run names no place of its own. Pure; a local run has none of this."""

from __future__ import annotations

from dataclasses import dataclass

from rewarm_api.errors import Problem
from rewarm_api.messages import NOTHING
from rewarm_api.run import ContinualRun


@dataclass(frozen=True)
class Defaults:
    """The chart's defaults; empty where it sets none."""

    checkpoints_uri: str = ""
    """Folder of all runs; each gets NAMESPACE/NAME/ in it, so that two runs never share one."""
    cache_uri: str = ""
    """Shared by all runs: what is prepared once is found again by its content."""
    tracking_uri: str = ""
    """MLflow server."""
    namespace: str = "default"
    """Namespace of the run."""


def completed(run: ContinualRun, defaults: Defaults) -> ContinualRun:
    """The run with the chart's defaults in the fields that it leaves out.

    Without any default for the cache it is `cache/` in the folder of the checkpoints.
    """
    spec = run.spec
    checkpoints = spec.checkpoints.uri
    if checkpoints is None and defaults.checkpoints_uri:
        checkpoints = f"{defaults.checkpoints_uri.rstrip('/')}/{defaults.namespace}/{run.metadata.name}/"
    cache = spec.cache.uri or defaults.cache_uri or (f"{checkpoints.rstrip('/')}/cache/" if checkpoints else None)
    tracking = spec.tracking.uri or defaults.tracking_uri or None
    changes = {
        "checkpoints": spec.checkpoints.model_copy(update={"uri": checkpoints}),
        "cache": spec.cache.model_copy(update={"uri": cache}),
        "tracking": spec.tracking.model_copy(update={"uri": tracking}),
    }
    return run.model_copy(update={"spec": spec.model_copy(update=changes)})


def cluster_problems(run: ContinualRun, defaults: Defaults) -> tuple[Problem, ...]:
    """What keeps a run that `validate(local=False)` found valid from running on this cluster."""
    if completed(run, defaults).spec.checkpoints.uri is not None:
        return ()
    expected = "s3:// | claim://NAME/path, since this cluster has no default"
    fix = "add checkpoints.uri, or set the chart's value checkpoints.uri"
    return (Problem("spec.checkpoints.uri", NOTHING, expected, fix),)
