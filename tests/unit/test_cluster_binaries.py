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


def test_what_go_compiled_on_the_way_goes_with_the_last_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARM_TOOLS", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)

    def compiled(name: str, folder: Path) -> None:
        (tmp_path / "go-build").mkdir(exist_ok=True)
        (folder / "bin" / name).touch()
        (folder / "bin" / f"{name}.stamp").write_text(binaries._wanted(name))

    monkeypatch.setattr(binaries, "_build", compiled)
    *first, last = binaries.SETS["e2e"]
    binaries.build(first, print)
    assert (tmp_path / "go-build").exists()
    binaries.build([last], print)
    assert not (tmp_path / "go-build").exists()


def test_programs_are_compiled_in_a_cache_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARM_TOOLS", str(tmp_path))
    monkeypatch.delenv("GOCACHE", raising=False)
    assert binaries._environment()["GOCACHE"] == str(tmp_path / "go-build")
    monkeypatch.setenv("GOCACHE", "mine")
    assert binaries._environment()["GOCACHE"] == "mine"
