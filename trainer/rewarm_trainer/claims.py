"""`claim://NAME/path`: a folder or a file in a volume that is mounted into this pod. Decides only where that is."""

from __future__ import annotations

import os
from pathlib import Path

from rewarm_api.errors import MissingInputError

SCHEME = "claim://"
FOLDER = "REWARM_CLAIMS"


def claim_path(uri: str) -> Path:
    """The place of a `claim://` address on this machine; MissingInputError (66) when its claim is not mounted."""
    name, _, path = uri.removeprefix(SCHEME).partition("/")
    mounted = os.environ.get(FOLDER)
    if not mounted:
        raise MissingInputError(
            f"{uri}: no claims are mounted here ({FOLDER} is not set); claims are for pods, a run on this machine "
            "takes a plain path"
        )
    folder = Path(mounted) / name
    if not name or not folder.is_dir():
        raise MissingInputError(
            f"{uri}: claim {name!r} is not mounted in this pod (looked for {folder}); create the PersistentVolumeClaim "
            "in the run's namespace, or correct the name"
        )
    # `folder / "/etc"` is /etc: a second slash after the name would leave the claim as `..` does.
    if ".." in path.split("/") or path.startswith("/"):
        raise MissingInputError(f"{uri}: the path leaves its claim; give a path below claim {name!r}")
    return folder / path


def claim_root(uri: str) -> Path:
    """Where the claim itself of a `claim://` address is mounted. Raises as `claim_path`."""
    return claim_path(SCHEME + uri.removeprefix(SCHEME).partition("/")[0] + "/")
