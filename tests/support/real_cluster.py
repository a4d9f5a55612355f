"""Tests on a real control plane: skipped where its programs are not built, unless they are required to run."""

from __future__ import annotations

import pytest


def needs_control_plane(level: str = "api") -> pytest.MarkDecorator:
    """For `pytestmark`; tests/conftest.py skips them where the programs of this level are missing."""
    return pytest.mark.cluster(level)
