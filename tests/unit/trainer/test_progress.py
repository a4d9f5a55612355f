"""What a person sees: plain lines in a pipe, one live display on a terminal, calm words where they are due."""

from __future__ import annotations

import io
import os
import pty
import re

import pytest

from rewarm_api.resolve import resolve
from rewarm_api.validate import validate
from rewarm_trainer.progress import LiveProgress, PlainProgress, Progress, course_of, duration, look_words, step_parts

DOCUMENT = {
    "apiVersion": "rewarm.dev/v1alpha1",
    "kind": "ContinualRun",
    "metadata": {"name": "demo"},
    "spec": {
        "baseModel": {"file": {"path": "base"}},
        "corpus": {"sources": [{"name": "new", "uri": "a.jsonl"}]},
        "replay": {"ratio": 0.25, "sources": [{"name": "old", "uri": "b.jsonl"}]},
        "schedule": {"peakLearningRate": 0.001, "warmup": "10%"},
        "budget": {"tokens": 100_000},
        "training": {"sequenceLength": 100, "globalBatchTokens": 1000},
    },
}
SNAPSHOT = resolve(validate(DOCUMENT, local=True).run, uid="u")
PLAN = SNAPSHOT.plan


def record(step: int, **changes):
    return {
        "step": step,
        "tokens": step * 1000,
        "loss": 2.5,
        "learning_rate": 3e-4,
        "losses": {"new": 2.25, "old": 3.0},
        "gradient_norm": 0.8,
        "tokens_per_second": 2000.0,
        "replay_share": 0.25,
        **changes,
    }


def look(tokens: int, worst: float):
    delta = {"mean": worst, "low": worst - 0.01, "high": worst + 0.01}
    return {"tokens": tokens, "sets": {"old": {"role": "Retained", "delta": delta}}, "forgetting": {"max": worst}}


def report(**changes):
    item = {
        "role": "Retained",
        "documents": 64,
        "baseline": {"loss": 3.0},
        "final": {"loss": 3.25},
        "delta": {"mean": 0.25, "low": 0.2, "high": 0.3},
        "verdict": "Lose",
        "stability_gap": {"depth": 0.4},
    }
    return {
        "run": {"name": "demo"},
        "outcome": "Succeeded",
        "sets": {"[old]": item},
        "forgetting": {"max": 0.25, "mean": 0.25},
        "gain": {"mean": None},
        "gates": [{"name": "maxForgetting", "limit": 0.02, "value": 0.25, "result": "Fail"}],
        "promotion": {"promoted": False, "reason": "maxForgetting failed"},
        "tokens": {"trained": 100_000, "requested": 100_000},
        "replay": {"requested": 0.25, "realized": 0.25},
        "throughput": {"tokens_per_second": 2000.0},
        "attempts": [{"tokens_recomputed": 0}, {"tokens_recomputed": 5000}],
        **changes,
    }


@pytest.fixture
def plain():
    stream = io.StringIO()
    progress = Progress.create(stream)
    assert isinstance(progress, PlainProgress)
    return progress, stream


def test_one_plain_line_per_record(plain):
    progress, stream = plain
    progress.start(SNAPSHOT, PLAN)
    progress.step(record(50))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training demo from the start: 100 steps, 100K tokens"
    assert lines[1] == (
        "step 50/100, 50K/100K tokens, 2K tokens/s, 25s left, loss 2.5000, new 2.2500, old 3.0000, "
        "learning rate 0.0003, replay 25.0%, gradient norm 0.80"
    )
    assert "\x1b" not in stream.getvalue()


def test_rewarming_is_explained_once(plain):
    progress, stream = plain
    progress.start(SNAPSHOT, PLAN)
    for step in range(1, 9):
        progress.step(record(step))
    assert stream.getvalue().count("re-warming: a passing rise") == 1


def test_an_early_stability_gap_is_called_common_and_a_late_one_is_not():
    course = course_of(SNAPSHOT, PLAN)
    course.take(record(15))
    course.look = look(15_000, 0.3)
    assert "stability gap: old text is +0.300 nats" in course.message()
    course.take(record(60))
    course.look = look(60_000, 0.3)
    assert course.message() == ""
    course.look = look(15_000, -0.3)
    assert course.message() == ""


def test_losses_are_grouped_and_missing_ones_left_out():
    course = course_of(SNAPSHOT, PLAN)
    course.take(record(5, losses={"new": 2.0}, loss=None, gradient_norm=None, tokens_per_second=None))
    position, values = step_parts(course)
    assert position == ["step 5/100", "5K/100K tokens"]
    assert values == ["new 2.0000", "learning rate 0.0003", "replay 25.0%"]


def test_long_stages_do_not_flood_a_pipe(plain):
    progress, stream = plain
    for done in range(1001):
        progress.prepare("scan", "new", done * 1e6, 1e9, "bytes")
    for done in range(65):
        progress.baseline("old", done, 64)
    assert stream.getvalue().splitlines() == [
        "scan new: 0.0 of 1,000.0 MB",
        "scan new: 1,000.0 of 1,000.0 MB",
        "baseline old: 0 of 64 batches",
        "baseline old: 64 of 64 batches",
    ]


def test_a_look_is_told_once_with_its_result(plain):
    progress, stream = plain
    progress.start(SNAPSHOT, PLAN)
    progress.baseline("old", 64, 64)
    progress.evaluation({"tokens": 0, "sets": {"old": {"loss": 3.0}}})
    assert stream.getvalue().splitlines()[1:] == ["baseline: old 3.0000"]


def test_looks_name_every_set():
    assert look_words({**look(15_000, 0.3), "gain": 0.1}) == (
        "look at 15K tokens: old +0.300 [+0.290, +0.310]; forgetting +0.300; gain +0.100"
    )


def test_the_verdict_has_every_number(plain):
    progress, stream = plain
    progress.finish(report())
    text = stream.getvalue()
    for word in ("[old]", "Retained", "3.0000", "3.2500", "+0.250 [+0.200, +0.300]", "+0.400", "Lose"):
        assert word in text
    assert "forgetting +0.250 at most, +0.250 on average; gain –" in text
    assert re.search(r"maxForgetting\s+0.02\s+\+0.250\s+Fail", text)
    assert "not promoted: maxForgetting failed" in text
    assert "2 attempts, 5000 tokens trained again" in text


def test_a_failed_run_has_a_verdict_too(plain):
    progress, stream = plain
    item = {**report()["sets"]["[old]"], "baseline": {"loss": None}, "final": {"loss": None}, "verdict": None}
    item["delta"] = {"mean": None, "low": None, "high": None}
    item["stability_gap"] = {"depth": None}
    progress.finish(
        report(
            outcome="Diverged",
            message="loss is not finite",
            sets={"old": item},
            gates=[],
            forgetting={"max": None, "mean": None},
            throughput={"tokens_per_second": None},
            attempts=[],
        )
    )
    assert "Diverged: loss is not finite" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.4, "0s"), (59.7, "1m00s"), (250, "4m10s"), (7380, "2h03m")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_a_terminal_gets_a_live_display_and_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stream:
        progress = Progress.create(stream)
        assert isinstance(progress, LiveProgress)
        with progress:
            progress.prepare("scan", "new", 10, 100, "documents")
            progress.prepare("scan", "new", 100, 100, "documents")
            progress.start(SNAPSHOT, PLAN)
            progress.step(record(5))
            progress.evaluation(look(5000, 0.1))
            progress.event("checkpoint committed after step 5")
            progress.finish(report())
        progress.close()
        stream.flush()
        os.set_blocking(reader, False)
        shown = b""
        while True:
            try:
                shown += os.read(reader, 65536)
            except BlockingIOError:
                break
    os.close(reader)
    text = shown.decode()
    for word in ("scan new: 100 documents", "checkpoint committed after step 5", "Lose", "\x1b[?25l"):
        assert word in text
    # The cursor is shown again, after everything else that hid it.
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stream:
        assert isinstance(Progress.create(stream), PlainProgress)
    os.close(reader)


def test_the_silent_one_says_nothing(capsys):
    with Progress() as progress:
        progress.start(SNAPSHOT, PLAN)
        progress.step(record(1))
        progress.finish(report())
    assert capsys.readouterr() == ("", "")
