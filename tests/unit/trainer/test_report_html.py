"""The page holds the verdict first, loads nothing, escapes everything and is whole for any run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from rewarm_api.errors import MissingInputError
from rewarm_trainer.report import Facts, SetFacts, build_report
from rewarm_trainer.report_curves import set_figures
from rewarm_trainer.report_html import duration, render_folder, render_html
from rewarm_trainer.runlog import Log, arrange

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """What a browser would see: text in order, attributes, headings; fails on unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.extend((tag, name, value or "") for name, value in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.extend((tag, name, value or "") for name, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def render(example: Any, **changes: Any) -> str:
    report = build_report(replace(example.facts, **changes))
    return render_html(report, snapshot=example.snapshot, pins=example.pins, log=arrange(example.records))


def test_the_verdict_comes_first_then_gates_curves_and_account(example: Any) -> None:
    text = Page(render(example)).text
    order = [
        "stdlib-replay",
        "Learned: new-domain loss (stdlib-code) fell by 0.841 nats per token [0.837, 0.845].",
        "Forgot: old-domain loss (stdlib-docs) rose by 0.012 nats per token [0.008, 0.017].",
        "Promoted: all gates pass",
        "maxForgetting",
        "Before and after",
        "stdlib-docs: loss over training",
        "Training loss",
        "Learning rate",
        "Replay share, asked and realised",
        "Tokens per second",
        "PSF-2.0",
        "not stated",
        "Unknown",
        "Where the time went",
        "rewarm run MANIFEST.yaml",
        "Proxy replay",
    ]
    body = text[text.index("Rewarm report") :]
    places = [body.find(words) for words in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)


def test_the_page_loads_nothing(example: Any) -> None:
    html = render(example)
    page = Page(html)
    assert not re.search(r"<(script|iframe|img|object|embed)\b|@import|@font-face", html)
    assert {value for _, name, value in page.attributes if name in {"src", "href"}} == {"data:,"}
    assert re.findall(r"url\(([^)#]*)", html) == [""] * html.count("url(")
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", html)


def test_it_reads_in_light_in_dark_on_a_phone_and_on_paper(example: Any) -> None:
    html = render(example)
    assert "prefers-color-scheme: dark" in html
    assert '<meta name="color-scheme" content="light dark">' in html
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "@media print" in html
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", html))
    for block in re.findall(r":root \{(.*?)\}", html, re.DOTALL):
        assert used <= set(re.findall(r"(--[a-z0-9]+):", block)), "a theme lacks a colour"


def test_every_chart_has_a_title_a_description_and_its_numbers(example: Any) -> None:
    html = render(example)
    page = Page(html)
    drawings = re.findall(r'<svg class="chart".*?</svg>', html, re.DOTALL)
    assert len(drawings) == 9  # three sets and one beginning enlarged, five of training
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.find("title").text
        assert root.find("desc").text
        assert root.get("role") == "img"
    identifiers = [value for _, name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    for _, name, value in page.attributes:
        if name == "aria-labelledby":
            assert set(value.split()) <= set(identifiers)
    assert html.count("<figure>") == html.count("<summary>Numbers</summary>") == 9


def test_the_curve_of_a_set_shows_base_band_and_gap(example: Any) -> None:
    report = build_report(example.facts)
    figures = {figure.title: figure for figure in set_figures(report)}
    figure = figures["stdlib-docs: loss over training"]
    root = ElementTree.fromstring(figure.svg)
    texts = [element.text for element in root.iter("text")]
    assert "untouched base" in texts
    gap = report["sets"]["stdlib-docs"]["stability_gap"]
    assert f"gap +{gap['depth']:.3f}" in texts
    assert any("band" in path.get("class") for path in root.iter("path"))
    assert figure.table.rows[0] == ("0", "3.0210", "baseline")
    first, last = figure.table.rows[1], figure.table.rows[-1]
    delta = report["sets"]["stdlib-docs"]["history"][1]["delta"]
    assert first[1] == f"{3.0210 + delta['mean']:.4f}", "drawn as the full baseline plus the paired change"
    assert last[0] == f"{480 * 8192:,}"
    assert "stdlib-docs: the first 524K tokens" in figures


def test_names_and_texts_of_other_people_cannot_become_markup(example: Any) -> None:
    evil = '<script>alert("x")</script>'
    sets = {evil: example.facts.sets["stdlib-docs"]}
    html = render(example, name=evil, message=evil, outcome="Unknown", sets=sets, warnings=[evil], remarks=[evil])
    assert "<script" not in html
    assert evil in Page(html).text


@pytest.mark.parametrize("outcome", ["Preempted", "Diverged", "BadData"])
def test_a_run_without_a_verdict_has_a_page_too(outcome: str) -> None:
    sets = {"a": SetFacts("New", 40, 900, None)}
    facts = Facts("run", "uid", "sha256:0", outcome, 1000, message="Stopped.", sets=sets)
    text = Page(render_html(build_report(facts), snapshot=None, pins=None, log=Log())).text
    assert f"{outcome}: 0 of 1,000 tokens trained. Stopped." in text
    assert "Not promoted" in text


def test_a_log_with_gaps_still_draws_what_it_knows(example: Any) -> None:
    for record in example.records:
        if record.get("step") == 50:
            record["loss"] = None
            record["losses"] = {}
    assert "Training loss by source" in render(example)


def test_the_page_of_a_folder_is_the_same_page(tmp_path: Path, example: Any) -> None:
    with pytest.raises(MissingInputError):
        render_folder(tmp_path)
    report = build_report(example.facts)
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert "Learned:" in render_folder(tmp_path), "the report alone is enough"
    snapshot = {**example.snapshot.to_json(), "digest": example.snapshot.digest}
    (tmp_path / "snapshot.json").write_text(json.dumps(snapshot))
    (tmp_path / "pins.json").write_text(example.pins.model_dump_json(by_alias=True))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in example.records))
    assert render_folder(tmp_path) == render(example)


def test_a_long_run_stays_a_small_page(example: Any) -> None:
    one = example.records[1]
    steps = [{**one, "step": step, "tokens": step * 8192, "loss": 3 + step % 7 / 10} for step in range(1, 30_001)]
    log = Log(tuple(steps), ())
    html = render_html(build_report(example.facts), snapshot=example.snapshot, pins=example.pins, log=log)
    assert len(html) < 600_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "0.8 s"), (59, "59 s"), (245, "4 min 5 s"), (3600, "1 h"), (11_520, "3 h 12 min"), (180_000, "2 d 2 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
