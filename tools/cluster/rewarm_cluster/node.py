"""A cluster of one real node: containerd and runc, a bridge network, Services by kube-proxy, names by CoreDNS.

One to a machine, as root. It is what `make cluster-up` starts and what the end-to-end tests run on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from . import binaries
from .archives import save_one_layer
from .control_plane import ControlPlane
from .errors import ClusterError
from .machine import BRIDGE, CGROUP, NODE_ADDRESS, POD_RANGE, Machine
from .packages import cni_folder, program

NAME = "rewarm-node"
PORT = 6443
DOMAIN = "cluster.local"
PAUSE_IMAGE = "localhost/pause:3"
# Short: it holds unix sockets, whose paths may have 107 bytes.
STATE = Path("/var/tmp/rewarm-cluster")
DISK_EVICTIONS = {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"}


class Cluster(ControlPlane):
    """The control plane with a node. `stop` also ends a cluster that another process started in the same folder."""

    def __init__(self, *, state: Path = STATE, detached: bool = True, say: Callable[[str], None] = print) -> None:
        flags = ["--cluster-cidr=" + POD_RANGE]
        super().__init__(
            "jobs", state=state, scheduler=True, address=NODE_ADDRESS, port=PORT, detached=detached, manager_flags=flags
        )
        self.machine, self._say = Machine(state), say

    def start(self) -> None:
        for name in binaries.NODE:
            binaries.find(name)
        self.state.mkdir(parents=True, exist_ok=True)
        self.machine.prepare()
        super().start()
        self._start_mounts()
        self._start_containers()
        self._start_kubelet()
        self._start_proxy()
        self._start_dns()
        self.api.wait(f"/api/v1/nodes/{NAME}", _node_ready, within_s=120)

    def stop(self, *, keep_images: bool = False, keep_logs: bool = False) -> None:
        """Leave nothing behind: no process, mount, link, packet filter, cgroup, kernel setting; the folder goes too.
        `keep_images`: all but the images that were imported. `keep_logs`: to find out why it did not start."""
        # Newest first: servers beside the cluster, then what depends on the API server, then containers.
        own = {"mounts", "containerd", "kubelet", "kube-apiserver", "etcd", *binaries.NODE}
        for name in set(self.processes.names()) - own:
            self.processes.stop(name)
        for name in ("coredns", "kube-proxy", "kube-scheduler", "kube-controller-manager", "kubelet"):
            self.processes.stop(name)
        self.processes.stop("containerd")
        self.machine.end_containers(self.processes.pid("mounts"))
        super().stop()
        self.processes.stop("mounts", kill=True)
        self.machine.restore()
        self._remove({name for name, kept in (("containerd", keep_images), ("logs", keep_logs)) if kept})

    def running(self) -> bool:
        return all(self.processes.running(name) for name in ("etcd", "kube-apiserver", "kubelet", "containerd"))

    def ctr(self, *arguments: str) -> str:
        """containerd's own client, in the namespace of the kubelet."""
        command = [program("ctr"), "--address", str(self._socket), "-n", "k8s.io", *arguments]
        result = subprocess.run([*self._inside(), *command], capture_output=True, text=True)
        if result.returncode:
            raise ClusterError(f"ctr {' '.join(arguments)} failed: {result.stderr.strip()[-600:]}")
        return result.stdout

    def add_program(self, image: str, program_file: Path, inside: str) -> None:
        """Give the node an image that holds one static program, as `/<inside>`, and starts it."""
        archive = self.state / f"{inside}.tar"
        save_one_layer(image, {inside: program_file}, [f"/{inside}"], archive)
        with self.importing(image) as pipe, archive.open("rb") as content:
            shutil.copyfileobj(content, pipe)
        archive.unlink()

    @contextmanager
    def importing(self, image: str) -> Iterator[IO[bytes]]:
        """A pipe into the node that takes a docker-save archive."""
        command = [program("ctr"), "--address", str(self._socket), "-n", "k8s.io", "images", "import", "-"]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen([*self._inside(), *command], stdin=subprocess.PIPE, stdout=said, stderr=said)
            assert process.stdin is not None
            with process.stdin as pipe:
                yield pipe
            if process.wait():
                said.seek(0)
                raise ClusterError(f"{image} cannot be imported: {said.read().decode(errors='replace').strip()[-600:]}")
        self._drop_packed_layers(image)

    def has_image(self, image: str, identity: str) -> bool:
        """Whether the node holds this image by this name with this configuration (`sha256:...`)."""
        return any(manifest.get("config", {}).get("digest") == identity for manifest in self._manifests(image))

    def _manifests(self, image: str) -> list[dict[str, Any]]:
        rows = [line.split() for line in self.ctr("images", "list", f"name=={image}").splitlines()[1:]]
        return [json.loads(self.ctr("content", "get", row[2])) for row in rows]

    def _drop_packed_layers(self, image: str) -> None:
        """Containers run from the unpacked layers; the packed ones are as large again."""
        for manifest in self._manifests(image):
            self.ctr("content", "rm", *(layer["digest"] for layer in manifest["layers"]))

    # -- the parts of a node -------------------------------------------------------------------------------------------

    @property
    def _socket(self) -> Path:
        return self.state / "containerd" / "containerd.sock"

    def _inside(self) -> list[str]:
        """What goes before a command that must see the node's mounts."""
        return [program("nsenter"), f"--mount=/proc/{self.processes.pid('mounts')}/ns/mnt"]

    def _start_mounts(self) -> None:
        self.processes.start("mounts", self.machine.mounts_command())
        self.processes.wait_ready("mounts", self.machine.mounted)

    def _start_containers(self) -> None:
        folder = self.state / "containerd"
        network = self.state / "cni"
        for path in (folder, network / "conf", network / "data"):
            path.mkdir(parents=True, exist_ok=True)
        (network / "conf" / "10-rewarm.conflist").write_text(json.dumps(_network(network / "data"), indent=1))
        configuration = folder / "config.toml"
        configuration.write_text(_containerd(folder, network / "conf", self._socket))
        self.processes.start(
            "containerd", [program("containerd"), "--config", str(configuration)], prefix=self._inside()
        )
        self.processes.wait_ready("containerd", lambda: self._socket.exists() and self._answers())
        self.add_program(PAUSE_IMAGE, binaries.find("pause"), "pause")

    def _answers(self) -> bool:
        try:
            self.ctr("version")
        except ClusterError:
            return False
        return True

    def _start_kubelet(self) -> None:
        hosts = [NODE_ADDRESS, NAME]
        pair = self.certificates.server("kubelet-serving", f"system:node:{NAME}", hosts, ["system:nodes"])
        path = self.component_kubeconfig("kubelet", f"system:node:{NAME}", ["system:nodes"])
        resolver = self.state / "resolv.conf"
        resolver.write_text("")
        configuration = self.state / "kubelet.json"
        configuration.write_text(json.dumps(self._kubelet(pair, resolver), indent=1))
        flags = [f"--config={configuration}", f"--kubeconfig={path}", f"--root-dir={self.state / 'kubelet'}"]
        flags += [f"--hostname-override={NAME}", f"--node-ip={NODE_ADDRESS}"]
        self.processes.start("kubelet", [str(binaries.find("kubelet")), *flags], prefix=self._inside())

    def _kubelet(self, pair: tuple[Path, Path], resolver: Path) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pair[0]),
            "tlsPrivateKeyFile": str(pair[1]),
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "clusterDomain": DOMAIN,
            "clusterDNS": [NODE_ADDRESS],
            "resolvConf": str(resolver),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}",
            # True by default since 1.36: the kubelet would refuse a host of cgroup version 1.
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "podLogsDir": str(self.state / "podlogs"),
            "volumePluginDir": str(self.state / "volumeplugins"),
            "evictionHard": DISK_EVICTIONS,
            "imageGCHighThresholdPercent": 100,
            "readOnlyPort": 0,
            "serializeImagePulls": False,
        }

    def _start_proxy(self) -> None:
        path = self.component_kubeconfig("kube-proxy", "system:kube-proxy")
        flags = [f"--kubeconfig={path}", f"--hostname-override={NAME}", "--proxy-mode=nftables"]
        flags += [f"--cluster-cidr={POD_RANGE}", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0"]
        flags += ["--conntrack-tcp-timeout-close-wait=0", "--metrics-bind-address=127.0.0.1"]
        self.processes.start("kube-proxy", [str(binaries.find("kube-proxy")), *flags])

    def _start_dns(self) -> None:
        path = self.component_kubeconfig("coredns", "system:coredns", ["system:masters"])
        upstream = "    forward . /etc/resolv.conf\n" if _has_resolver(Path("/etc/resolv.conf")) else ""
        corefile = self.state / "Corefile"
        corefile.write_text(
            f".:53 {{\n    bind {NODE_ADDRESS}\n    errors\n    ready {NODE_ADDRESS}:8181\n"
            f"    kubernetes {DOMAIN} in-addr.arpa {{\n        kubeconfig {path} rewarm\n        pods insecure\n"
            f"        ttl 5\n    }}\n{upstream}}}\n"
        )
        self.processes.start("coredns", [str(binaries.find("coredns")), "-conf", str(corefile)])

    def _remove(self, kept: set[str]) -> None:
        if not self.state.exists():
            return
        for path in self.state.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if not kept:
            self.state.rmdir()


def _node_ready(node: dict[str, Any] | None) -> bool:
    conditions = (node or {}).get("status", {}).get("conditions", [])
    taints = (node or {}).get("spec", {}).get("taints", [])
    return not taints and any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _network(data: Path) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "dataDir": str(data),
        "ranges": [[{"subnet": POD_RANGE, "rangeStart": "10.244.0.10", "gateway": NODE_ADDRESS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugin = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "rewarm", "plugins": [plugin]}


def _containerd(folder: Path, network: Path, socket: Path) -> str:
    # overlayfs cannot lie on overlayfs (a container as the host).
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True).stdout.strip()
    snapshotter = "native" if kind == "overlayfs" else "overlayfs"
    plugin = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[{plugin}]
sandbox_image = "{PAUSE_IMAGE}"
disable_apparmor = true
netns_mounts_under_state_dir = true
# Lowering a score needs a capability that a guest may lack.
restrict_oom_score_adj = true
[{plugin}.cni]
bin_dir = "{cni_folder()}"
conf_dir = "{network}"
[{plugin}.containerd]
snapshotter = "{snapshotter}"
default_runtime_name = "runc"
[{plugin}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{plugin}.containerd.runtimes.runc.options]
BinaryName = "{program("runc")}"
SystemdCgroup = false
"""


def _has_resolver(path: Path) -> bool:
    return path.exists() and any(line.startswith("nameserver") for line in path.read_text().splitlines())
