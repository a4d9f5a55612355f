"""What comes from the system's own packages: looked for first, and installed where that is possible."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ClusterError

CNI_PLUGINS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
# What tells that a package is there -> the Debian package.
NODE = {
    "containerd": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "openssl": "openssl",
    "nsenter": "util-linux",
    "bridge plugin": "containernetworking-plugins",
}
IMAGES = {"debootstrap": "debootstrap", "buildah": "buildah"}
INTEGRATION = {"openssl": "openssl", "prometheus": "prometheus", "promtool": "prometheus"}
E2E = NODE | IMAGES | INTEGRATION
_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
_NEVER_START = Path("/usr/sbin/policy-rc.d")


def ensure(wanted: dict[str, str], say: Callable[[str], None]) -> None:
    """Install the packages of `wanted` that are missing; ClusterError names them when that cannot be done here."""
    missing = sorted({package for what, package in wanted.items() if not _there(what)})
    if not missing:
        return
    line = f"apt-get install --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(f"these packages are missing: {', '.join(missing)}; as root: {line}")
    say(line)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    commands = [["apt-get", "update", "-q"], [*line.split(), "-q", "-y"]]
    with _no_services_started():
        for command in commands:
            result = subprocess.run(command, env=environment, capture_output=True, text=True)
            if result.returncode:
                last = (result.stderr or result.stdout).strip().splitlines()[-1:]
                raise ClusterError(f"{' '.join(command)} failed: {' '.join(last)}")


def program(name: str) -> str:
    """The path of a system program; some live where only root's PATH looks."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise ClusterError(f"{name} is not installed: install the package {E2E.get(name, name)}")
    return path


def cni_folder() -> Path:
    """Where the network plugins are."""
    for folder in CNI_PLUGINS:
        if (folder / "bridge").exists():
            return folder
    raise ClusterError("the network plugin `bridge` is not installed: install the package containernetworking-plugins")


def _there(what: str) -> bool:
    if what == "bridge plugin":
        return any((folder / "bridge").exists() for folder in CNI_PLUGINS)
    return shutil.which(what, path=_PATH) is not None


@contextmanager
def _no_services_started() -> Iterator[None]:
    """Debian starts what it installs: a containerd and a Prometheus of the machine that nobody asked for."""
    if _NEVER_START.exists():
        yield
        return
    with tempfile.NamedTemporaryFile("w", dir=_NEVER_START.parent, delete=False) as file:
        file.write("#!/bin/sh\nexit 101\n")
    Path(file.name).chmod(0o755)
    Path(file.name).rename(_NEVER_START)
    try:
        yield
    finally:
        _NEVER_START.unlink()
