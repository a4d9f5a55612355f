"""The screen of `rewarm status`: golden screens at two widths, and what must be said at each moment.

After a change of words: REWARM_WRITE_SCREENS=1 python -m pytest tests/unit/cli/test_status_view.py, then read them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_screens import EVENTS, READY, RUNS, SUCCEEDED, TRAINING, conditions, run, screen

from rewarm_cli.client import RewarmClient
from rewarm_cli.status_view import one_line
from rewarm_cli.story import early_note, problems, waits_for

SCREENS = Path(__file__).parent / "screens"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", RUNS)
def test_screens_are_as_they_were_reviewed(name, width):
    shown = screen(RUNS[name], EVENTS if name in ("training", "succeeded") else [], width)
    path = SCREENS / f"{name}-{width}.txt"
    if os.environ.get("REWARM_WRITE_SCREENS"):
        path.write_text(shown)
    assert shown == path.read_text()
    assert all(len(line) <= width for line in shown.splitlines())


def test_no_screen_is_left_over():
    assert {path.stem for path in SCREENS.glob("*.txt")} == {f"{name}-{width}" for name in RUNS for width in (80, 120)}


def test_early_losses_are_called_early():
    assert "too early to judge" in early_note(RUNS["early"])
    assert "from 200M tokens on" in early_note(RUNS["early"])


def test_a_long_warmup_moves_the_judgement():
    late = run(dict(RUNS["early"].object["status"]), spec={"schedule": {"peakLearningRate": 1, "warmup": "20%"}})
    assert "from 400M tokens on" in early_note(late)


def test_after_the_gap_forgetting_is_not_the_verdict_yet_and_a_win_needs_no_note():
    assert "not the verdict yet" in early_note(RUNS["training"])
    better = {**TRAINING, "evaluation": TRAINING["evaluation"][:1]}
    assert early_note(run(better)) == ""


@pytest.mark.parametrize("name", ["succeeded", "gates-failed", "failed"])
def test_the_end_is_never_called_early(name):
    assert early_note(RUNS[name]) == ""
    assert waits_for(RUNS[name]) == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pending", "the operator, which has not looked at it yet"),
        ("missing-secret", "secret s3-credentials not found"),
        ("queued", "queue gpu-queue"),
        ("suspended", "a resume"),
        ("deleting", "the operator, to take its Jobs away"),
    ],
)
def test_what_it_waits_for(name, words):
    assert words in waits_for(RUNS[name])


def test_a_run_that_trains_waits_for_nothing():
    assert waits_for(RUNS["training"]) == ""
    assert waits_for(RUNS["early"]) == ""


def test_a_change_that_the_operator_has_not_seen_is_waited_for():
    assert "newest change (generation 3)" in waits_for(run(TRAINING, generation=3))


def test_an_asked_promotion_is_waited_for():
    asked = run(TRAINING, annotations={"rewarm.dev/promote": "true"})
    assert "answer the promotion" in waits_for(asked)


def test_suspending_is_not_yet_suspended():
    going = run({**TRAINING, "conditions": conditions()}, spec={"suspend": True})
    assert "the checkpoint of the attempt" in waits_for(going)


def test_one_line_for_a_log():
    assert one_line(RUNS["training"]) == "Training · 62 %"
    assert one_line(RUNS["queued"]).startswith("Queued · waits for QuotaReserved: queue gpu-queue")
    assert one_line(RUNS["failed"]).startswith("Failed · 62 % · Training · OutOfMemory: container")


def test_a_stall_that_is_waited_for_is_said_once():
    words = "secret hub not found; create it"
    told = {**READY, "Running": ("False", "MissingSecret", words), "Stalled": ("True", "MissingSecret", words)}
    stalled = run({"summary": "Starting", "conditions": conditions(**told)})
    assert words in waits_for(stalled)
    assert problems(stalled) == []
    other = {**told, "Degraded": ("True", "TrackingUnavailable", "MLflow does not answer")}
    assert problems(run({"conditions": conditions(**other)})) == ["MLflow does not answer (Degraded)"]


def test_a_registry_that_is_away_is_waited_for_after_the_end():
    away = conditions(Succeeded=("True", "NoGates", ""), Registered=("Unknown", "TrackingUnavailable", "503"))
    assert waits_for(run({**SUCCEEDED, "conditions": away})) == "TrackingUnavailable: 503 (Registered)"


@pytest.mark.parametrize(
    ("promoted", "reason", "version", "moved"),
    [
        (True, "champion of m is version 7: the gates passed", "", True),
        (True, "champion of m is version 7: the gates passed", "7", True),
        (False, "champion of m is version 6: asked for", "6", True),
        (False, "champion of m is version 6: asked for", "", False),
        (True, "rewarm.dev/promote: found 'x'; not promoted", "6", False),
        (False, "champion of m is version 66: asked for", "6", False),
    ],
)
def test_whether_an_alias_has_moved(promoted, reason, version, moved):
    answer = run({**SUCCEEDED, "promotion": {"promoted": promoted, "reason": reason}})
    assert RewarmClient.moved(answer, version) is moved
