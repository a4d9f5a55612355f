"""Which tests run where: those on a real control plane or a whole cluster need programs that not every machine has.

`make test-cluster` sets REWARM_REQUIRE_CLUSTER: there, what is missing is a failure and never a skipped test.
"""

from __future__ import annotations

import os

import pytest

from rewarm_cluster.control_plane import missing


def pytest_runtest_setup(item: pytest.Item) -> None:
    if os.environ.get("REWARM_REQUIRE_CLUSTER") == "1":
        return
    marker = item.get_closest_marker("cluster")
    if marker and (absent := missing(marker.args[0] if marker.args else "api")):
        pytest.skip(f"{', '.join(absent)} not built: make cluster-tools")
    if item.get_closest_marker("e2e"):
        pytest.skip("needs a cluster and builds images: make test-cluster")
