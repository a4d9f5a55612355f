"""Alerts: promtool's own checks and unit tests, and that chart, file and docs know the same ones."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml
from rendered_chart import CHART, one, render

ROOT = CHART.parents[1]
RULES = CHART / "files" / "alerts.yaml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool not found: apt-get install prometheus")


def alerts():
    return {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}


@needs_promtool
def test_rules_are_rules():
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("file", sorted((ROOT / "tests" / "alerts").glob("*.yaml")), ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(file):
    done = subprocess.run([str(PROMTOOL), "test", "rules", file.name], cwd=file.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize(
    ("file", "name", "old", "new"),
    [
        ("runs", "in the gap", "> 0.25", "> 0"),
        ("runs", "on a look from the gap", ">= 2\n", ">= 1\n"),
        ("runs", "right after a start", "offset 30m) == 1", ") == 1"),
        ("runs", "while re-warming", "+ 0.5\n", "- 5\n"),
        ("runs", "after the verdict", 'condition="Succeeded"', 'condition="Nothing"'),
        ("operator", "in a handover", "for: 2m", "for: 0m"),
    ],
)
def test_the_tests_see_alerts_that_fire_wrongly(tmp_path, file, name, old, new):
    """Each guard is taken out in turn: then a test must fail, or it guards nothing that is tested."""
    rules = RULES.read_text()
    assert old in rules
    (tmp_path / "charts/rewarm/files").mkdir(parents=True)
    (tmp_path / "charts/rewarm/files/alerts.yaml").write_text(rules.replace(old, new))
    shutil.copytree(ROOT / "tests" / "alerts", tmp_path / "tests/alerts")
    command = [str(PROMTOOL), "test", "rules", f"{file}.yaml"]
    done = subprocess.run(command, cwd=tmp_path / "tests/alerts", capture_output=True)
    assert done.returncode != 0, name


def test_each_alert_says_what_is_wrong_and_where_to_read_on():
    headings = [
        line.removeprefix("## ")
        for line in (ROOT / "docs" / "alerts.md").read_text().splitlines()
        if line.startswith("## ")
    ]
    made = one(render({"prometheusRule": {"enabled": True}}), "PrometheusRule")
    rendered = {rule["alert"]: rule for group in made["spec"]["groups"] for rule in group["rules"]}
    assert set(rendered) == set(alerts())
    assert set(alerts()) <= set(headings)
    for name, rule in rendered.items():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith(".") or "{{" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/alerts.md#{name.lower()}")
        assert rule["expr"] == alerts()[name]["expr"]


def test_each_paragraph_says_what_to_do_and_none_is_left_over():
    page = (ROOT / "docs" / "alerts.md").read_text()
    paragraphs = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    assert set(paragraphs) == set(alerts()), "an alert that is gone has no runbook, and the other way round"
    for name, text in paragraphs.items():
        meaning, _, steps = text.partition("\n1. ")
        assert len(meaning.split()) > 10, f"{name}: what it means"
        assert len(steps.split()) > 5, f"{name}: what to do"


def test_alerts_can_be_left_out_and_tuned():
    overrides = {"RewarmRunStalled": {"enabled": False}, "RewarmCheckpointTooOld": {"for": "1h", "severity": "info"}}
    made = one(render({"prometheusRule": {"enabled": True, "overrides": overrides}}), "PrometheusRule")
    rules = {rule["alert"]: rule for group in made["spec"]["groups"] for rule in group["rules"]}
    assert "RewarmRunStalled" not in rules
    assert (rules["RewarmCheckpointTooOld"]["for"], rules["RewarmCheckpointTooOld"]["labels"]["severity"]) == (
        "1h",
        "info",
    )
