"""What the client understands of an object, and spans of time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rewarm_api.errors import ManifestError
from rewarm_api.manifest import load_yaml
from rewarm_cli import durations
from rewarm_cli.kubernetes_backend import concerns
from rewarm_cli.records import Run, run_of, status_of


def test_the_status_of_the_contract_is_read_whole(pytestconfig):
    document = load_yaml((pytestconfig.rootpath / "tests/unit/api/status.yaml").read_text())
    status = status_of(document)
    assert status.progress is not None
    assert status.progress.target_tokens == 2000683008
    assert status.evaluation[0].delta is not None
    assert status.model_dump(by_alias=True, exclude_none=True, mode="json", exclude={"snapshot_digest"})["gain"] == {
        "mean": 0.31
    }


def test_a_newer_operator_is_understood_in_part():
    status = status_of(
        {
            "summary": "Dreaming",
            "later": {"field": 1},
            "progress": {"step": 3, "tokens": -1, "later": 2},
            "attempts": [
                {"cause": "Abducted", "number": 2},
                {"cause": "Preempted"},
                {"number": 1, "cause": "Preempted"},
            ],
            "evaluation": [
                {"set": "pubmed", "role": "Sideways"},
                {"set": "general", "role": "Retained", "latest": 2.0},
            ],
            "learningRate": "fast",
        }
    )
    assert status.summary is None
    assert status.progress is not None
    assert status.progress.step == 3
    assert [(item.number, item.cause) for item in status.attempts] == [(2, None), (1, "Preempted")]
    assert [item.set for item in status.evaluation] == ["general"]
    assert status.learning_rate is None


def test_a_run_reads_conditions_never_the_summary():
    document = {
        "metadata": {"name": "a", "namespace": "b", "uid": "c", "managedFields": [1]},
        "spec": {"suspend": True},
        "status": {"summary": "Succeeded", "conditions": [{"type": "Succeeded", "status": "Unknown"}]},
    }
    run = run_of(document)
    assert (run.finished, run.succeeded, run.suspended) == (False, False, True)
    assert run.truth("NeverHeardOf") == "Unknown"
    assert "managedFields" not in run.object["metadata"]


@pytest.mark.parametrize(
    ("kind", "name", "about"),
    [
        ("ContinualRun", "a", True), ("ContinualRun", "a-a1", False), ("Job", "a-prepare", True),
        ("Job", "a-a12", True),
        ("Pod", "a-a12-0-x7f2k", True), ("Pod", "a-prepare-x7f2k", True), ("Pod", "ab-a1-0-x7f2k", False),
        ("Workload", "job-a-a1-x7f2k", True), ("Job", "a-b-a1", False), ("Job", "a-eval-1", True),
    ],
)  # fmt: skip
def test_events_of_a_run_and_its_children(kind, name, about):
    run = Run(name="a", namespace="default", uid="u")
    assert concerns({"involvedObject": {"kind": kind, "name": name}}, run) is about


def test_events_of_an_earlier_run_of_that_name_are_not_of_this_one():
    run = Run(name="a", namespace="default", uid="u")
    assert not concerns({"involvedObject": {"kind": "ContinualRun", "name": "a", "uid": "before"}}, run)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("500ms", 0.5), ("0", 0)],
)
def test_spans(text, seconds):
    assert durations.parse(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 m", "-5s", "5x", "m"])
def test_what_is_no_span_is_refused_by_name(text):
    with pytest.raises(ManifestError, match="--timeout"):
        durations.parse(text, "--timeout")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0, "0s"),
        (59.6, "1m"),
        (250, "4m10s"),
        (9200, "2h33m"),
        (86400, "1d"),
        (100000, "1d3h"),
        (1e6, "11d"),
    ],
)
def test_short_spans(seconds, text):
    assert durations.short(seconds) == text


def test_ago():
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert durations.ago("2026-01-31T11:00:00Z", now) == "1h"
    assert durations.ago("", now) == "–"
