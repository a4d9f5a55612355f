"""A program that is missing is named with what makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewarm_cluster import binaries
from rewarm_cluster.errors import ClusterError


@pytest.mark.parametrize(
    ("name", "made_by"),
    [("kubelet", "make cluster-tools"), ("helm", "make cluster-tools"), ("kwok", "rewarm_cluster tools benchmark")],
)
def test_what_to_type_for_a_missing_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, made_by: str
) -> None:
    monkeypatch.setenv("REWARM_TOOLS", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(ClusterError, match=f"{name} is not there .*{tmp_path}/bin.*{made_by}$"):
        binaries.find(name)
