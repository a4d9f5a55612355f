"""The cluster's programs: where they are, and building what is missing from pinned Go modules.

Each module folder beside this package holds go.mod and go.sum; sources are downloaded and checked by Go itself. A stamp
beside each program tells from which module and flags it was built, so that a second call takes no time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError

MODULES = Path(__file__).parents[1]
KUBERNETES = "v1.36.3"
GO = (1, 26)


@dataclass(frozen=True)
class Tool:
    """One program: the folder of its module, its package, and the flags of its linker."""

    module: str
    package: str
    linker: tuple[str, ...] = ()


def _kubernetes(command: str) -> Tool:
    # Without them the version is the placeholder of the source.
    _, major, minor, _ = re.split(r"[v.]", KUBERNETES)
    values = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    linker = tuple(f"-X {package}.{name}={value}" for package in packages for name, value in values.items())
    return Tool("kubernetes", f"k8s.io/kubernetes/cmd/{command}", linker)


# In the order in which tests need them.
TOOLS: dict[str, Tool] = {
    "etcd": Tool("kubernetes", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kubectl": _kubernetes("kubectl"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kubelet": _kubernetes("kubelet"),
    "kube-proxy": _kubernetes("kube-proxy"),
    "pause": Tool("pause", "."),
    "coredns": Tool("coredns", "."),
    "versitygw": Tool("versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    "helm": Tool("helm", "helm.sh/helm/v4/cmd/helm"),
    "kueue": Tool("kueue", "sigs.k8s.io/kueue/cmd/kueue"),
    "kwok": Tool("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "training-operator": Tool("training-operator", "github.com/kubeflow/training-operator/cmd/training-operator.v1"),
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
NODE = (*CONTROL_PLANE, "kube-scheduler", "kubelet", "kube-proxy", "pause", "coredns")
SETS: dict[str, tuple[str, ...]] = {
    "control-plane": CONTROL_PLANE,
    "node": NODE,
    "e2e": (*NODE, "versitygw", "helm", "kueue"),
    "benchmark": (*CONTROL_PLANE, "kube-scheduler", "kwok", "training-operator"),
}


def tools_folder() -> Path:
    """Where everything built or downloaded is kept: REWARM_TOOLS, else `rewarm/cluster-tools` in the user's cache."""
    if given := os.environ.get("REWARM_TOOLS"):
        return Path(given).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "rewarm" / "cluster-tools"


def find(name: str) -> Path:
    """The program: from KUBEBUILDER_ASSETS where it is there, else from the tools folder."""
    path = _asset(name) or tools_folder() / "bin" / name
    if not os.access(path, os.X_OK):
        where = f"KUBEBUILDER_ASSETS and {tools_folder()}/bin"
        raise ClusterError(f"{name} is not there (looked in {where}): {_made_by(name)}")
    return path


def _made_by(name: str) -> str:
    """What to type for a program; most come with the whole cluster."""
    if name in SETS["e2e"] or name not in TOOLS:
        return "make cluster-tools"
    return "PYTHONPATH=tools/cluster .venv/bin/python -m rewarm_cluster tools benchmark"


def build(names: Iterable[str], say: Callable[[str], None]) -> None:
    """Build what is missing or older than its module, one line each."""
    folder = tools_folder()
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    with _only_one(folder / "build.lock", say):
        for name in names:
            if asset := _asset(name):
                say(f"{name}: {asset} (KUBEBUILDER_ASSETS)")
            elif not _fresh(name, folder):
                started = time.monotonic()
                say(f"{name}: building")
                _build(name, folder)
                say(f"{name}: {time.monotonic() - started:.0f} s")
        if all(_asset(name) or _fresh(name, folder) for name in SETS["e2e"]):
            # What Go compiled on the way is 5 GB and of no use to finished programs.
            shutil.rmtree(_compiled(folder), ignore_errors=True)


def _compiled(folder: Path) -> Path:
    """Go's build cache of these programs, apart from the user's own, so that it can be removed."""
    return folder / "go-build"


def module_folder(module: str, dependency: str) -> Path:
    """Where Go unpacked the sources of a dependency (Kueue's chart lies there)."""
    command = [_go(), "list", "-mod=mod", "-m", "-f", "{{.Dir}}", dependency]
    subprocess.run([_go(), "mod", "download", dependency], cwd=MODULES / module, env=_environment(), check=True)
    output = subprocess.run(command, cwd=MODULES / module, env=_environment(), check=True, capture_output=True)
    return Path(output.stdout.decode().strip())


def _asset(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    path = Path(assets, name) if assets else None
    return path if path and os.access(path, os.X_OK) else None


def _command(name: str) -> list[str]:
    linker = " ".join(("-s", "-w", *TOOLS[name].linker))
    return ["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", linker]


def _wanted(name: str) -> str:
    """What a stamp must hold: a digest of everything that the program is made from."""
    digest = hashlib.sha256(repr((_command(name), TOOLS[name].package)).encode())
    module = MODULES / TOOLS[name].module
    for path in [module / "go.mod", module / "go.sum", *sorted(module.glob("*.go"))]:
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def _fresh(name: str, folder: Path) -> bool:
    stamp = folder / "bin" / f"{name}.stamp"
    return (folder / "bin" / name).exists() and stamp.exists() and stamp.read_text() == _wanted(name)


def _build(name: str, folder: Path) -> None:
    unfinished, stamp = folder / "bin" / f"{name}.new", folder / "bin" / f"{name}.stamp"
    module = MODULES / TOOLS[name].module
    command = [_go(), *_command(name), "-o", str(unfinished), TOOLS[name].package]
    result = subprocess.run(command, cwd=module, env=_environment(), capture_output=True, text=True)
    if result.returncode:
        raise ClusterError(_why(name, result.stderr))
    stamp.unlink(missing_ok=True)
    unfinished.rename(folder / "bin" / name)
    stamp.write_text(_wanted(name))


def _why(name: str, said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("go: downloading")]
    last = lines[-1].strip() if lines else "it said nothing"
    if re.search(r"dial tcp|no such host|i/o timeout|connection refused|proxyconnect|TLS handshake", said):
        return f"{name}: Go modules cannot be downloaded: set GOPROXY, or HTTPS_PROXY, to one that is reached ({last})"
    if "no space left" in said:
        return f"{name}: the disk is full; a cold build of everything needs about 12 GB ({last})"
    return f"{name}: go build failed: {last}"


def _environment() -> dict[str, str]:
    # Settings of the caller's own Go work (flags, workspace, cross compiling) must not leak in.
    kept = {name: value for name, value in os.environ.items() if name not in ("GOFLAGS", "GOWORK", "GOOS", "GOARCH")}
    own = {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-buildvcs=false"}
    return {"GOCACHE": str(_compiled(tools_folder()))} | kept | own


def _go() -> str:
    """A Go that is new enough; an older one (from 1.21 on) fetches a newer one by itself."""
    places = [shutil.which("go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"]
    found = [place for place in places if place and os.access(place, os.X_OK)]
    for place in found:
        said = subprocess.run([place, "version"], capture_output=True, text=True).stdout
        version = re.search(r"go(\d+)\.(\d+)", said)
        if version and (int(version[1]), int(version[2])) >= (1, 21):
            return place
    wanted = ".".join(map(str, GO))
    what = f"the one at {found[0]} is too old" if found else "there is none"
    raise ClusterError(
        f"Go {wanted} or newer is needed to build the cluster's programs and {what}: install Go {wanted}"
    )


@contextmanager
def _only_one(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Two builds into one folder take turns."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build ({path})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
