"""Benchmarks as people see them: on the terminal, on the page, in MLflow."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from rewarm_trainer.benchmark_view import count, points, share
from rewarm_trainer.listener import benchmark_metrics
from rewarm_trainer.model_card import model_card
from rewarm_trainer.report import build_report
from rewarm_trainer.report_html import render_html
from rewarm_trainer.runlog import Log
from rewarm_trainer.verdict_view import report_view


def model(accuracy: float, form: str | None = None) -> dict[str, Any]:
    return {"accuracy": accuracy, "choice_loss": 1.0, "form": form, "few_shot": 0, "cut": 0}


def interval(mean: float, low: float, high: float) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "confidence": 0.95}


def line(verdict: str | None) -> dict[str, Any]:
    flips = {"negative": interval(0.02, 0.01, 0.05), "positive": interval(0.12, 0.08, 0.16), "mcnemar_p": 0.0012}
    return {
        "metric": "acc",
        "items": 200,
        "baseline": model(0.5, "plain"),
        "final": model(0.6, "<quiz>"),
        "delta": interval(0.1, 0.05, 0.15),
        "flips": flips,
        "verdict": verdict,
    }


BENCHMARKS = {"medqa": {"tasks": {"one": line("Win"), "two": line("Lose")}}, "own": {"tasks": {"three": line(None)}}}


@pytest.fixture
def report(example: Any) -> dict[str, Any]:
    return build_report(replace(example.facts, benchmarks=BENCHMARKS))


def test_verdicts_are_counted_in_words() -> None:
    assert count(BENCHMARKS) == "1 win, 0 ties, 1 loss, 1 undecided"
    assert count({"a": {"tasks": {"x": line("Win"), "y": line("Win")}}}) == "2 wins, 0 ties, 0 losses"


def test_differences_are_points_and_shares_percent() -> None:
    assert points(interval(-0.0421, -0.09, 0.01)) == "-4.2 [-9.0, +1.0]"
    assert share(interval(0.02, 0.01, 0.05)) == "2.0 % [1.0, 5.0]"
    assert points({"mean": None, "low": None, "high": None}) == "–"
    assert share({"mean": 0.02, "low": None, "high": None}) == "2.0 %"


def test_the_terminal_has_a_row_for_each_task_and_the_count(report: dict[str, Any]) -> None:
    from rich.console import Console

    screen = io.StringIO()
    console = Console(file=screen, width=200)
    for part in report_view(report):
        console.print(part)
    (row,) = [text for text in screen.getvalue().splitlines() if " two " in text]
    cells = (
        "medqa",
        "200",
        "50.0 % (plain)",
        "60.0 % (<quiz>)",
        "+10.0 [+5.0, +15.0]",
        "0.0012",
        "2.0 % [1.0, 5.0]",
        "Lose",
    )
    for cell in cells:
        assert cell in row
    assert "tasks: 1 win, 0 ties, 1 loss, 1 undecided" in screen.getvalue()


def test_the_page_has_them_too_and_no_markup_of_others(report: dict[str, Any], example: Any) -> None:
    page = render_html(report, snapshot=example.snapshot, pins=example.pins, log=Log())
    assert "<h2>Benchmarks</h2>" in page
    assert "60.0 % (&lt;quiz&gt;)" in page
    assert "too few items" in page
    plain = render_html(build_report(example.facts), snapshot=None, pins=None, log=Log())
    assert "<h2>Benchmarks</h2>" not in plain


def test_a_set_with_flips_shows_them_on_the_page(example: Any) -> None:
    flips = {
        "labels": 100,
        "top1": {"baseline": 0.31, "final": 0.42},
        "negative": interval(0.031, 0.02, 0.04),
        "positive": interval(0.141, 0.12, 0.16),
        "net": interval(0.11, 0.1, 0.12),
        "relative_negative": 0.2,
        "documents": {"count": 9, "better": {"share": 0.9, "mean": 0.1}, "worse": {"share": 0.1, "mean": 0.1}},
    }
    sets = {name: replace(value, flips=flips) for name, value in example.facts.sets.items()}
    told = build_report(replace(example.facts, sets=sets))
    assert told["sets"]["tiny"]["flips"] == flips
    page = render_html(told, snapshot=None, pins=None, log=Log())
    assert "3.1 %" in page
    assert "Documents worse" in page
    assert "Documents worse" not in render_html(build_report(example.facts), snapshot=None, pins=None, log=Log())


def test_the_model_card_says_what_was_measured(report: dict[str, Any], example: Any) -> None:
    card = model_card(report, example.snapshot, example.pins)
    assert "| medqa | one | 200 | 50.0 % (plain) | 60.0 % (&lt;quiz>) | +10.0 [+5.0, +15.0] |" in card
    assert "Only next-token loss and the tasks above were measured" in card
    plain = model_card(build_report(example.facts), example.snapshot, example.pins)
    assert "Only next-token loss was measured" in plain


def test_metrics_of_a_task_at_the_start_and_at_the_end() -> None:
    assert benchmark_metrics({"a": {"tasks": {"b": model(0.25)}}}) == {"benchmark/a/b/accuracy": 0.25}
    assert benchmark_metrics({"a": {"tasks": {"b": line("Win")}}}) == {
        "benchmark/a/b/accuracy": 0.6,
        "benchmark/a/b/delta": 0.1,
        "benchmark/a/b/negative_flips": 0.02,
        "benchmark/a/b/positive_flips": 0.12,
    }
