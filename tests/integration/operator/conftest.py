"""One control plane for the operator's tests; a namespace, a service account and a fault proxy for each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from operator_places import control_plane, place_in
from operator_process import Place

from rewarm_cluster.control_plane import ControlPlane


@pytest.fixture(scope="session")
def cluster() -> Iterator[ControlPlane]:
    with control_plane() as cluster:
        yield cluster


@pytest.fixture
def place(cluster: ControlPlane, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    namespace = "t" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    with place_in(cluster, namespace, tmp_path) as place:
        yield place
