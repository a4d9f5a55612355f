"""Both images of this tree without a registry: base by debootstrap, build by buildah, import into the cluster's node.

What is slow is kept in the tools folder: the base as an archive, the layers in buildah's store, so that after a change
of code only a thin layer is built. Images travel through a pipe: no archive is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .binaries import tools_folder
from .errors import ClusterError
from .node import Cluster
from .packages import program

ROOT = Path(__file__).parents[3]
BASE = "localhost/python:3.11-slim"
SUITE = "bookworm"
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
UNNEEDED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "var/cache",
    "var/lib/apt/lists",
    "var/log",
)
TARGETS = ("operator", "trainer")
GIGABYTE = 1024**3
# 7 GB thrice: buildah's layer and two copies while it commits; later that layer, one copy on its way, one in the node.
NEEDED = 26 * GIGABYTE
IMPORT_NEEDED = 16 * GIGABYTE


def name(target: str) -> str:
    return f"localhost/rewarm-{target}:dev"


@dataclass(frozen=True)
class Layer:
    """One layer of an image: its bytes uncompressed, and the folder of its files."""

    size: int
    files: Path


class Builder:
    """buildah with a store of its own in the tools folder."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.folder = tools_folder() / "images"
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:
            raise ClusterError("images are built as root here (mounts, chroot): run it with sudo")

    def build(self, targets: Sequence[str] = TARGETS) -> None:
        """Build the targets of the tree's Dockerfile; layers that did not change are taken from the store."""
        free = shutil.disk_usage(self.folder).free
        self._say(f"images: {free / GIGABYTE:.0f} GB of disk are free, a cold build needs {NEEDED / GIGABYTE:.0f}")
        if free < NEEDED and not self._has(name("trainer")):
            raise ClusterError(f"{self.folder}: {free / GIGABYTE:.0f} GB free, {NEEDED / GIGABYTE:.0f} GB needed")
        self._ensure_base()
        for target in targets:
            started = time.monotonic()
            self._bud(target)
            self._say(f"images: {name(target)} built in {time.monotonic() - started:.0f} s")

    def give(self, cluster: Cluster, targets: Sequence[str] = TARGETS) -> None:
        """Import them into the cluster's node."""
        for target in targets:
            started = time.monotonic()
            if cluster.has_image(name(target), self.identity(target)):
                self._say(f"images: {name(target)} is in the cluster already")
                continue
            with cluster.importing(name(target)) as pipe:
                push = ["push", "--quiet", name(target), f"docker-archive:/dev/stdout:{name(target)}"]
                self._buildah(*push, stdout=pipe)
            self._say(f"images: {name(target)} imported in {time.monotonic() - started:.0f} s")

    def identity(self, target: str) -> str:
        """Digest of the image's configuration: the name that every runtime knows it by."""
        found = self._buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", name(target))
        return "sha256:" + found.strip().removeprefix("sha256:")

    def layers(self, target: str) -> list[Layer]:
        """Of a built image, the base first."""
        image = json.loads(self._buildah("inspect", "--type", "image", name(target)))
        store = self.folder / "store"
        known = {each["diff-digest"]: each for each in json.loads((store / "overlay-layers/layers.json").read_text())}
        found = [known[digest] for digest in image["OCIv1"]["rootfs"]["diff_ids"]]
        return [Layer(each["diff-size"], store / "overlay" / each["id"] / "diff") for each in found]

    def _has(self, image: str) -> bool:
        try:
            return bool(self._buildah("images", "--quiet", image).strip())
        except ClusterError:
            return False

    def _ensure_base(self) -> None:
        recipe = hashlib.sha256(f"{SUITE} {PACKAGES} {UNNEEDED}".encode()).hexdigest()[:12]
        archive = self.folder / f"python-{recipe}.tar.gz"
        if not archive.exists():
            started = time.monotonic()
            self._say("images: the base, by debootstrap")
            _make_base(self.folder / "base", archive)
            self._say(f"images: the base, {archive.stat().st_size / 1e6:.0f} MB in {time.monotonic() - started:.0f} s")
        marker = self.folder / "base.imported"
        if not self._has(BASE) or not marker.exists() or marker.read_text() != recipe:
            container = self._buildah("from", "scratch").strip()
            self._buildah("add", "--quiet", container, str(archive), "/")
            self._buildah("config", "--cmd", "python3", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
            self._buildah("commit", "--quiet", "--rm", container, BASE)
            marker.write_text(recipe)

    def _bud(self, target: str) -> None:
        command = ["bud", "--layers", "--isolation", "chroot", "--pull-never", "--build-arg", f"BASE={BASE}"]
        # This base has no package lists to install a compiler from, and runs without GPUs need none.
        command += ["--build-arg", "COMPILER="]
        # The machine's certificates and package index are lent to the build, and are no part of the image.
        settings = self.folder / "pip.conf"
        settings.write_text(_pip_settings())
        command += ["--volume", f"{settings}:/etc/pip.conf:ro"]
        if Path("/etc/ssl/certs").is_dir():
            command += ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]
        for folder in _wheel_folders():
            command += ["--volume", f"{folder}:{folder}:ro"]
        log = self.folder / f"{target}.log"
        command += ["--target", target, "--tag", name(target), "--file", str(ROOT / "Dockerfile"), str(ROOT)]
        with log.open("wb") as output:
            self._buildah(*command, stdout=output, log=log)

    def _buildah(self, *arguments: str, stdout: object = None, log: Path | None = None) -> str:
        """buildah in a mount namespace of its own: what a failed build leaves mounted goes with it."""
        store = [
            "--root",
            str(self.folder / "store"),
            "--runroot",
            str(self.folder / "run"),
            "--storage-driver",
            "overlay",
        ]
        command = [program("unshare"), "--mount", program("buildah"), *store, *arguments]
        output = subprocess.PIPE if stdout is None else stdout
        errors = subprocess.STDOUT if log else subprocess.PIPE
        result = subprocess.run(command, stdout=output, stderr=errors, text=True)  # type: ignore[call-overload]
        if result.returncode:
            said = log.read_text(errors="replace") if log else result.stderr
            raise ClusterError(f"buildah {arguments[0]} failed: " + "\n  ".join(said.strip().splitlines()[-15:]))
        return str(result.stdout or "")


def _make_base(root: Path, archive: Path) -> None:
    """A Debian with Python and nothing else, as an archive."""
    shutil.rmtree(root, ignore_errors=True)
    command = [program("debootstrap"), "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
    # Mounts of a cut-off debootstrap end with its namespace.
    result = subprocess.run([program("unshare"), "--mount", *command], capture_output=True, text=True)
    if result.returncode:
        raise ClusterError(f"debootstrap failed: {' '.join(result.stdout.strip().splitlines()[-2:])}")
    for folder in UNNEEDED:
        for path in (root / folder).iterdir() if (root / folder).is_dir() else []:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for marker in (root / "usr/lib").glob("python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    (root / "usr/bin/python").symlink_to("python3")
    # Package sources of the machine that built it have no place in an image.
    for path in (root / "etc/apt/sources.list", root / "etc/resolv.conf", root / "etc/hostname"):
        path.write_text("")
    unfinished = archive.with_suffix(".new")
    with tarfile.open(unfinished, "w:gz", compresslevel=1) as tar:
        tar.add(root, arcname=".", filter=_no_device)
    unfinished.rename(archive)
    shutil.rmtree(root)


def _no_device(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.isdev() else entry


def _pip_setting(setting: str) -> str:
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{setting}"]
    environment = os.environ.get("PIP_" + setting.upper().replace("-", "_"))
    return environment or subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _wheel_folders() -> list[str]:
    return [link for link in _pip_setting("find-links").split() if Path(link).is_dir()]


def _pip_settings() -> str:
    """The machine's own settings of where packages come from, for the pip of the build."""
    lines = ["[global]", "disable-pip-version-check = true", "timeout = 180", "retries = 10"]
    for setting in ("index-url", "extra-index-url", "trusted-host", "proxy"):
        if value := _pip_setting(setting):
            lines.append(f"{setting} = {' '.join(value.split())}")
    if folders := _wheel_folders():
        lines.append(f"find-links = {' '.join(folders)}")
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():
        lines.append("cert = /etc/ssl/certs/ca-certificates.crt")
    return "\n".join(lines) + "\n"
