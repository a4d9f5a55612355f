"""Where the cluster's programs are."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ClusterError


def tools_folder() -> Path:
    """Where everything built or downloaded is kept: REWARM_TOOLS, else `rewarm/cluster-tools` in the user's cache."""
    if given := os.environ.get("REWARM_TOOLS"):
        return Path(given).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "rewarm" / "cluster-tools"


def find(name: str) -> Path:
    """The program: from KUBEBUILDER_ASSETS where it is there, else from the tools folder."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for folder in ([Path(assets)] if assets else []) + [tools_folder() / "bin"]:
        if os.access(folder / name, os.X_OK):
            return folder / name
    raise ClusterError(
        f"{name} is not there (looked in KUBEBUILDER_ASSETS and {tools_folder()}/bin): make cluster-tools"
    )
