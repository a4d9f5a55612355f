"""`make test-cluster MINUTES=...`: what would not end in time is left out, and said."""

from __future__ import annotations

import pytest

from rewarm_cluster import suite

FAST, SLOW = 5.0, 12.5
"""Minutes of each of the two first parts."""


def ran(monkeypatch: pytest.MonkeyPatch, minutes: float | None, each: float) -> tuple[int, list[str], str]:
    """Exit code, parts that ran, and all that was said."""
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
    monkeypatch.setenv("KUBECONFIG", "somebody's")
    return made.run(), parts, "\n".join(said)


@pytest.mark.parametrize(("minutes", "each"), [(None, SLOW), (44, FAST), (70, SLOW)])
def test_with_time_everything_runs(monkeypatch: pytest.MonkeyPatch, minutes: float | None, each: float) -> None:
    code, parts, said = ran(monkeypatch, minutes, each)
    assert (code, parts) == (0, ["_tools", "_integration", "_programs_and_images", "_end_to_end"])
    assert "LEFT OUT" not in said


def test_on_a_slow_machine_the_end_to_end_parts_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    code, parts, said = ran(monkeypatch, 36, SLOW)
    assert (code, parts) == (0, ["_tools", "_integration"])
    assert "11 minutes are left, about 40 are needed on this machine" in said
    assert "LEFT OUT, NO TIME" in said


def test_without_time_for_any_part_none_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    code, parts, said = ran(monkeypatch, 20, FAST)
    assert (code, parts) == (0, [])
    assert "20 minutes are left, about 27 are needed" in said
