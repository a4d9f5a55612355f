"""`make test-cluster MINUTES=...`: what time or disk do not suffice for is left out, and said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from rewarm_cluster import suite

FAST, SLOW = 5.0, 12.5
"""Minutes of each of the two first parts."""


def ran(
    monkeypatch: pytest.MonkeyPatch, minutes: float | None, each: float, free: int = 100, kubeconfig: str = ""
) -> tuple[int, list[str], str]:
    """Exit code, parts that ran, and all that was said; `free`: GB of disk."""
    said: list[str] = []
    made = suite.Suite(said.append, minutes)
    clock, parts = [0.0], []

    def part(name: str) -> bool:
        parts.append(name)
        clock[0] += 60 * each
        return True

    monkeypatch.setattr(suite.time, "monotonic", lambda: clock[0])
    for name in ("_integration", "_programs_and_images", "_end_to_end"):
        monkeypatch.setattr(made, name, lambda name=name: part(name))
    monkeypatch.setattr(made, "_tools", lambda _: part("_tools"))
    monkeypatch.setattr(suite, "_free", lambda: free * suite.images.GIGABYTE)
    monkeypatch.setattr(suite, "Cluster", lambda **_: Mock(running=lambda: True))
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    return made.run(), parts, "\n".join(said)


@pytest.mark.parametrize(("minutes", "each"), [(None, SLOW), (44, FAST), (70, SLOW)])
def test_with_time_everything_runs(monkeypatch: pytest.MonkeyPatch, minutes: float | None, each: float) -> None:
    code, parts, said = ran(monkeypatch, minutes, each)
    assert (code, parts) == (0, ["_tools", "_integration", "_programs_and_images", "_end_to_end"])
    assert "LEFT OUT" not in said


def test_on_a_slow_machine_the_end_to_end_parts_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    code, parts, said = ran(monkeypatch, 36, SLOW)
    assert (code, parts) == (0, ["_tools", "_integration"])
    assert "11 minutes are left, at least 25 are needed on this machine" in said
    assert "LEFT OUT, NO TIME" in said


def test_without_time_for_any_part_none_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    code, parts, said = ran(monkeypatch, 20, FAST)
    assert (code, parts) == (0, [])
    assert "20 minutes are left, at least 27 are needed" in said


def test_on_a_small_disk_the_end_to_end_parts_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    code, parts, said = ran(monkeypatch, 70, SLOW, free=20)
    assert (code, parts) == (0, ["_tools", "_integration"])
    assert "LEFT OUT from here on: programs of the node" in said
    assert "20 GB of disk are free, 26 GB are needed" in said
    assert "LEFT OUT, NO ROOM" in said


@pytest.mark.parametrize(("minutes", "kubeconfig"), [(None, ""), (70, "somebody's")])
def test_a_disk_that_no_limit_was_set_for_or_that_is_not_used_leaves_nothing_out(
    monkeypatch: pytest.MonkeyPatch, minutes: float | None, kubeconfig: str
) -> None:
    _, parts, _ = ran(monkeypatch, minutes, SLOW, free=20, kubeconfig=kubeconfig)
    assert parts[-1] == "_end_to_end"


TWO_TESTS = "import time\ndef test_first(): {first}\ndef test_second(): pass\n"


def end_to_end(
    monkeypatch: pytest.MonkeyPatch, folder: Path, first: str, limit: float | None
) -> tuple[bool, str, list[str]]:
    """Two real tests in the place of the end-to-end ones: the verdict, all that was said, and the table's new rows."""
    tests = folder / "tests"
    tests.mkdir()
    (tests / "test_two.py").write_text(TWO_TESTS.format(first=first))
    said: list[str] = []
    made = suite.Suite(said.append, None if limit is None else 10.0)

    def pytest_here(*arguments: str) -> int:
        given = [each for each in arguments if each not in ("-m", "e2e", "tests/e2e")]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *given, "tests"]
        return subprocess.run(command, cwd=folder, capture_output=True).returncode

    monkeypatch.setattr(suite, "ROOT", folder)
    monkeypatch.setattr(made, "_limit", lambda: limit)
    monkeypatch.setattr(made, "_pytest", pytest_here)
    monkeypatch.setenv("KUBECONFIG", "somebody's")
    return made._end_to_end(), "\n".join(said), [result for _, _, result in made._rows]


def test_when_time_is_up_between_two_tests_the_rest_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good, said, rows = end_to_end(monkeypatch, tmp_path, "time.sleep(1.1)", 1)
    assert good
    assert "LEFT OUT: the end-to-end tests after the first 1, all of which passed" in said
    assert rows == ["LEFT OUT, NO TIME"]


def test_a_failure_is_no_want_of_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good, said, rows = end_to_end(monkeypatch, tmp_path, "time.sleep(1.1); assert False", 1)
    assert (good, said, rows) == (False, "", [])


@pytest.mark.parametrize("limit", [None, 60])
def test_with_time_for_all_tests_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: float | None
) -> None:
    assert end_to_end(monkeypatch, tmp_path, "pass", limit) == (True, "", [])


def test_the_time_for_end_to_end_tests_leaves_room_for_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = suite.Suite(print, 48.0)
    made._rows.append(("integration", 60 * 18.0, "ok"))
    assert made._limit() == 60 * (48 - 18 - suite.LAST_MINUTES)
    assert suite.Suite(print)._limit() is None
