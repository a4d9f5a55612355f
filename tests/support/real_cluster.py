"""Tests on a real control plane: skipped where its programs are not built, unless they are required to run."""

from __future__ import annotations

import os

import pytest

from rewarm_cluster.control_plane import missing


def needs_control_plane(level: str = "api") -> pytest.MarkDecorator:
    """For `pytestmark`. `make test-cluster` sets REWARM_REQUIRE_CLUSTER: there, what is missing is a failure."""
    absent = missing(level)
    required = os.environ.get("REWARM_REQUIRE_CLUSTER") == "1"
    reason = f"{', '.join(absent)} not built: make cluster-tools"
    return pytest.mark.skipif(bool(absent) and not required, reason=reason)
