"""Where operators are tried: one real control plane, and in it a place of its own for each story."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fault_proxy import FaultProxy
from operator_process import ROOT, Place, operator_kubeconfig

from rewarm_cluster.control_plane import ControlPlane

CRDS = sorted((ROOT / "crds").glob("*.yaml"))


@contextmanager
def control_plane() -> Iterator[ControlPlane]:
    """etcd, API server and Job controller, with our kinds of objects."""
    with ControlPlane("jobs") as cluster:
        for crd in CRDS:
            cluster.apply(crd.read_text())
        yield cluster


@contextmanager
def place_in(cluster: ControlPlane, namespace: str, folder: Path) -> Iterator[Place]:
    """A namespace under Pod Security `restricted`, an account with the chart's rights, a proxy before its operator."""
    cluster.namespace(namespace, restricted=True)
    serving = cluster.certificates.server(f"proxy-{namespace}", "proxy", ["127.0.0.1"])
    with FaultProxy(cluster.url, cluster.authority, serving) as proxy:
        kubeconfig = operator_kubeconfig(cluster, namespace, proxy.url)
        yield Place(cluster, namespace, proxy, kubeconfig, folder)
