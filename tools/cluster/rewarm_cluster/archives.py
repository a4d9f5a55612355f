"""An image of one layer in the format of `docker save`, without a builder: for static programs."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

NOBODY = 65534


def save_one_layer(name: str, files: Mapping[str, Path], command: Sequence[str], archive: Path) -> None:
    """Write `archive` with the image `name`: `files` (path inside -> file here, executable), started by `command`.
    The user is numeric, as pods that say runAsNonRoot demand."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for inside, file in sorted(files.items()):
            entry = tarfile.TarInfo(inside)
            entry.size, entry.mode = file.stat().st_size, 0o755
            with file.open("rb") as executable:
                tar.addfile(entry, executable)
    data = layer.getvalue()
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(command), "User": f"{NOBODY}:{NOBODY}", "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(archive, "w") as tar:
        for inside, content in (("layer.tar", data), ("config.json", configuration), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(inside)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
