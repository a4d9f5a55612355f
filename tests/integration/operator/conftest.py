"""One control plane for the operator's tests; a namespace, a service account and a fault proxy for each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from operator_process import Place, operator_kubeconfig

from rewarm_cluster.control_plane import ControlPlane

CRDS = sorted((Path(__file__).parents[3] / "crds").glob("*.yaml"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[ControlPlane]:
    with ControlPlane("jobs") as cluster:
        for crd in CRDS:
            cluster.apply(crd.read_text())
        yield cluster


@pytest.fixture
def place(cluster: ControlPlane, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    namespace = cluster.namespace("t" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12])
    serving = cluster.certificates.server(f"proxy-{namespace}", "proxy", ["127.0.0.1"])
    with FaultProxy(cluster.url, cluster.authority, serving) as proxy:
        kubeconfig = operator_kubeconfig(cluster, namespace, proxy.url)
        yield Place(cluster, namespace, proxy, kubeconfig, tmp_path)
