"""What tests and tools do with any API server: kubectl, apply, namespaces; and any cluster that a kubeconfig names."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from . import binaries
from .api import Api
from .processes import Processes, free_ports


class Client:
    """An API server and a kubeconfig for it."""

    api: Api
    kubeconfig: Path

    def kubectl(self, *arguments: str, input: str | None = None, kubeconfig: Path | None = None) -> str:
        """What `kubectl ARGUMENTS` prints; a failure is an AssertionError with what it said."""
        command = [str(binaries.find("kubectl")), "--kubeconfig", str(kubeconfig or self.kubeconfig), *arguments]
        result = subprocess.run(command, input=input, capture_output=True, text=True)
        if result.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: exit code {result.returncode}: {result.stderr}")
        return result.stdout

    def apply(self, manifests: str | list[Any], *, kubeconfig: Path | None = None) -> None:
        """`kubectl apply --server-side` of YAML text or of objects."""
        text = manifests if isinstance(manifests, str) else "\n---\n".join(json.dumps(item) for item in manifests)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text, kubeconfig=kubeconfig)

    def namespace(self, name: str, *, restricted: bool = False) -> str:
        """Make a namespace with the ServiceAccount `default`, without which no pod is accepted. `restricted`: its pods
        must pass Pod Security `restricted`."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"} if restricted else {}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
        self.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}, account])
        return name


class ForeignCluster(Client):
    """A cluster that exists already. `kubectl proxy` speaks for us, whatever way its kubeconfig authenticates."""

    def __init__(self, kubeconfig: Path, state: Path) -> None:
        self.kubeconfig, self.processes = kubeconfig, Processes(state, detached=False)
        port = free_ports(1)[0]
        command = [str(binaries.find("kubectl")), "--kubeconfig", str(kubeconfig), "proxy", f"--port={port}"]
        self.api = Api(f"http://127.0.0.1:{port}")
        self.processes.start("kubectl-proxy", command)
        self.processes.wait_ready("kubectl-proxy", self.api.ready)

    def stop(self) -> None:
        self.processes.stop("kubectl-proxy")
