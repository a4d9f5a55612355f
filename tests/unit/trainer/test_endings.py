"""Which of several ends is the cause."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from rewarm_trainer.endings import Ending, cause_of, of_status, read_endings, write_ending

STOPPED = Ending("rank-1", 143, "stopped", time=1.0)
VICTIM = Ending("rank-2", 70, "another process went away", victim=True, time=2.0)
DATA = Ending("rank-3", 65, "broken", time=3.0)
DISK = Ending("rank-4", 75, "disk full", time=4.0)


@pytest.mark.parametrize(
    ("endings", "expected"),
    [
        ([VICTIM, DISK, DATA], DATA),
        ([DISK, STOPPED], DISK),
        ([Ending("rank-0", 0, time=0.5), VICTIM], VICTIM),
        ([STOPPED, VICTIM], STOPPED),
        ([Ending("rank-1", 143, time=5.0), VICTIM], VICTIM),
    ],
)
def test_an_own_failure_goes_first_then_the_earliest(endings: list[Ending], expected: Ending) -> None:
    assert cause_of(endings, 1) == expected


def test_without_a_word_the_status_speaks() -> None:
    assert cause_of([], 0).code == 0
    assert cause_of([], 1).code == 70
    assert cause_of([], -signal.SIGKILL).code == 137
    assert "SIGKILL" in of_status(-signal.SIGKILL, "rank-3").message
    assert of_status(-signal.SIGSEGV, "rank-3").code == 139


def test_endings_are_read_back_in_order(tmp_path: Path) -> None:
    for ending in (DISK, STOPPED, DATA):
        write_ending(tmp_path, ending)
    assert read_endings(tmp_path) == [STOPPED, DATA, DISK]
    assert json.loads((tmp_path / "end-rank-3.json").read_text())["code"] == 65


def test_an_ending_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    write_ending(tmp_path / "gone", DATA)
    assert read_endings(tmp_path / "gone") == []


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(0, "Succeeded"), (64, "InvalidSpec"), (75, "DependencyUnavailable"), (137, "Unknown"), (143, "Preempted")],
)
def test_codes_have_the_names_of_causes(code: int, outcome: str) -> None:
    assert Ending("pod", code).outcome == outcome
