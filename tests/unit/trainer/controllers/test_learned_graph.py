"""Edges of a learned skill graph: only where the paired interval says so, with the relative drop as their weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rewarm_api.errors import MissingInputError
from rewarm_trainer import skills
from rewarm_trainer.controllers.learned_graph import Help, helps_of, lines

DELTAS: dict[tuple[str, str], tuple[float, float | None, float | None]] = {
    ("only-a", "a-b"): (-0.4, -0.5, -0.3),
    ("only-b", "a-b"): (-0.1, -0.3, 0.1),
    ("only-a", "a-c"): (0.2, 0.1, 0.3),
    ("only-c", "a-c"): (-0.9, None, None),
}
RUNS = {frozenset(name): f"only-{name}" for name in "abc"} | {frozenset("ab"): "a-b", frozenset("ac"): "a-c"}


def compared(alone: str, pair: str) -> dict[str, Any]:
    mean, low, high = DELTAS[alone, pair]
    line = {"first": {"loss": 4.0}, "delta": {"mean": mean, "low": low, "high": high}}
    return {"sets": {alone[-1]: line, "other": None}}


def test_an_edge_stands_where_the_interval_lies_below_zero() -> None:
    found = helps_of(RUNS, compared)
    assert found == [
        Help("b", "a", -0.4, -0.5, -0.3, 0.1),
        Help("a", "b", -0.1, -0.3, 0.1, None),
        Help("c", "a", 0.2, 0.1, 0.3, None),
        Help("a", "c", -0.9, None, None, None),
    ]
    written = lines(found)
    assert yaml.safe_load("\n".join(written)) == {
        "mixture": {"skillGraph": {"edges": [{"source": "b", "helps": "a", "weight": 0.1}]}}
    }
    assert "# b beside a: loss of a -0.4000 [-0.5000, -0.3000] nats per token" in written
    assert "# a beside c: loss of c -0.9000 too few documents nats per token" in written


def test_without_any_help_the_graph_is_its_diagonal() -> None:
    found = [each for each in helps_of(RUNS, compared) if each.weight is None]
    assert yaml.safe_load("\n".join(lines(found))) == {"mixture": {"skillGraph": {"edges": []}}}


def test_a_pair_without_its_single_runs_says_nothing() -> None:
    assert helps_of({frozenset("ab"): "a-b"}, compared) == []


def test_a_folder_that_is_no_run_is_66(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingInputError, match="not a run"):
        skills.learn([tmp_path])
    assert skills.main([str(tmp_path)]) == 66
    assert "give the work folders of finished runs" in capsys.readouterr().err
    assert skills.main([]) == 64
