"""What a node changes on the machine, and undoing all of it: bridge, packet filter, kernel settings, cgroups, mounts.

Everything is written down in `<state>/undo.json` before it is changed, so that `make cluster-down` can undo what a
killed `make cluster-up` began.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .errors import ClusterError
from .packages import program
from .processes import until

BRIDGE, NODE_ADDRESS, POD_RANGE = "rewarm0", "10.244.0.1", "10.244.0.0/16"
CGROUP = "rewarm-cluster"
CGROUPS = Path("/sys/fs/cgroup")
TABLES = (("ip", "rewarm-cluster"), ("ip", "kube-proxy"), ("ip6", "kube-proxy"))
# What the kubelet and kube-proxy set.
KERNEL = (
    "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet", "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables",
    "net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait", "net/netfilter/nf_conntrack_tcp_be_liberal",
)  # fmt: skip
# Folders with fixed names in the programs: covered by folders of our own, in a mount namespace of our own.
COVERED = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/var/log/pods", "/run/containerd")


class Machine:
    """The changes of one node, kept in its state folder."""

    def __init__(self, state: Path) -> None:
        self.state, self._undo = state, state / "undo.json"

    def prepare(self) -> None:
        """Everything that must stand before the first program of the node starts."""
        if self._undo.exists():
            raise ClusterError(f"{self.state} holds a node that was not taken down: make cluster-down")
        if os.geteuid() != 0:
            raise ClusterError("a node needs root: containers, a bridge and cgroups are made; run it with sudo")
        kernel = {name: _read(name) for name in KERNEL}
        made = [folder for folder in COVERED if not Path(folder).exists()]
        self._undo.write_text(json.dumps({"kernel": kernel, "made": made}))
        for folder in made:
            Path(folder).mkdir(parents=True)
        _make_cgroups()
        _make_bridge()

    def mounts_command(self) -> list[str]:
        """The command of the process that holds the node's mount namespace: whatever is mounted goes when it ends."""
        covers = " && ".join(
            f"mkdir -p {self.state}/covers{folder} && mount --no-mtab --bind {self.state}/covers{folder} {folder}"
            for folder in COVERED
        )
        script = (
            f"mount --no-mtab --make-rshared / && {covers} && touch {self.state}/mounts.ready && exec sleep infinity"
        )
        return [program("unshare"), "--mount", "--propagation", "private", "sh", "-c", script]

    def mounted(self) -> bool:
        return (self.state / "mounts.ready").exists()

    def end_containers(self, holder: int | None) -> None:
        """Kill all containers, and whatever else lives in the node's mount namespace (shims)."""
        namespace = _mount_namespace(holder) if holder else None

        def alive() -> set[int]:
            shims = {pid for pid in _all_processes() if namespace and _mount_namespace(pid) == namespace}
            return (shims | set(_in_cgroups())) - {holder, os.getpid()}

        def none_left() -> bool:
            for pid in alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not alive()

        if not until(none_left, 20):
            raise ClusterError(f"these processes of containers do not end: {sorted(alive())}")

    def restore(self) -> None:
        """Undo everything; each step also works when it was never done, or was undone already."""
        if not self._undo.exists():
            return
        record = json.loads(self._undo.read_text())
        # A pod's end of the link goes with its network namespace, a moment after its last process.
        ports = Path(f"/sys/class/net/{BRIDGE}/brif")
        until(lambda: not ports.is_dir() or not any(ports.iterdir()), 10)
        for name in [path.name for path in ports.iterdir()] if ports.is_dir() else []:
            _quietly(program("ip"), "link", "delete", name)
        _quietly(program("ip"), "link", "delete", BRIDGE)
        for family, table in TABLES:
            _quietly(program("nft"), "delete", "table", family, table)
        if not until(_remove_cgroups, 10):
            raise ClusterError(f"the cgroups {CGROUP} cannot be removed: processes are in them")
        for name, value in record["kernel"].items():
            # Lowering it to the value that it had fails while the table is fuller than that: not ours to empty.
            if value is not None and _read(name) != value:
                with contextlib.suppress(OSError):
                    Path("/proc/sys", name).write_text(value)
        for folder in record["made"]:
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        for name in ("undo.json", "mounts.ready"):
            (self.state / name).unlink(missing_ok=True)


def _make_bridge() -> None:
    """The bridge of the pods with the node's address: the API server, DNS and the kubelet listen there, and whatever
    else pods of this machine shall reach. It exists before the first pod and needs no route to anywhere."""
    ip = program("ip")
    _run(ip, "link", "add", BRIDGE, "type", "bridge")
    _run(ip, "address", "add", f"{NODE_ADDRESS}/16", "dev", BRIDGE)
    _run(ip, "link", "set", BRIDGE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    rules = (
        "table ip rewarm-cluster { chain postrouting { type nat hook postrouting priority srcnat;"
        f' ip saddr {POD_RANGE} ip daddr != {POD_RANGE} oifname != "{BRIDGE}" masquerade; }}; }}'
    )
    _run(program("nft"), rules)


def _hierarchies() -> list[Path]:
    """The roots of cgroup: one on a host of version 2, one per controller on version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return sorted(path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink())


def _make_cgroups() -> None:
    for root in _hierarchies():
        folder = root / CGROUP
        folder.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            # Version 1: a new cpuset is empty, and no process may enter it.
            if (root / name).exists() and not (folder / name).read_text().strip():
                (folder / name).write_text((root / name).read_text())
        if (root / "cgroup.subtree_control").exists():
            for controller in (root / "cgroup.controllers").read_text().split():
                for place in (root, folder):
                    with contextlib.suppress(OSError):
                        (place / "cgroup.subtree_control").write_text(f"+{controller}")


def _our_cgroups() -> list[Path]:
    """Our cgroups, the innermost first."""
    return [
        Path(folder) for root in _hierarchies() for folder, _, _ in os.walk(root / CGROUP, topdown=False)
    ]  # fmt: skip


def _in_cgroups() -> Iterable[int]:
    for folder in _our_cgroups():
        with contextlib.suppress(OSError):
            yield from map(int, (folder / "cgroup.procs").read_text().split())


def _remove_cgroups() -> bool:
    for folder in _our_cgroups():
        with contextlib.suppress(OSError):
            folder.rmdir()
    return not any((root / CGROUP).exists() for root in _hierarchies())


def _all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _mount_namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None


def _read(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise ClusterError(f"{' '.join(command)} failed: {result.stderr.strip()}")


def _quietly(*command: str) -> None:
    subprocess.run(command, capture_output=True)
