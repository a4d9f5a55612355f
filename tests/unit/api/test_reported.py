"""What pods tell the operator: bounded whoever writes it, clear when it is wrong, and 4 KB whatever it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_api.manifest import read_manifest
from rewarm_api.reported import (
    MAXIMUM_BODY,
    Checkpoint,
    Decided,
    PinsSummary,
    Progress,
    Report,
    ReportError,
    SourceCount,
    Termination,
    read_report,
)

REPORTED = (
    "phase", "progress", "learningRate", "evaluation", "forgetting", "gain", "gates", "promotion", "replay",
    "checkpoint",
)  # fmt: skip
STATUS = read_manifest(Path(__file__).parent / "status.yaml")
FULL: dict[str, Any] = {
    **{name: STATUS[name] for name in REPORTED},
    "attempt": {"number": 2, "firstStep": 641, "lastStep": 1200, "tokensRecomputed": 4096},
    "modelVersion": "7",
    "outcome": "Succeeded",
    "warnings": ["checkpoint step-00000640 is damaged; resumed from step-00000320"],
    "decisions": [{"what": "RaiseReplay", "why": "forgetting 0.03 is over 0.02", "tokens": 4096}],
}


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_a_report_travels_unchanged():
    report = read_report(body({"rewarm": FULL, "trainerStatus": {"progressPercentage": 3}}))
    assert report.to_json() == FULL


def test_a_report_is_built_by_names_of_attributes_and_says_only_what_was_said():
    report = Report(learning_rate=1e-3, progress=Progress(step=4, target_tokens=8), warnings=["two\nlines\x1b"])
    expected = {"learningRate": 0.001, "progress": {"step": 4, "targetTokens": 8}, "warnings": ["two lines"]}
    assert report.to_json() == expected


def test_fields_of_a_newer_image_are_passed_over():
    newer = {"step": 4, "novel": {"deep": []}}
    report = read_report(body({"rewarm": {"novel": 1, "progress": newer, "evaluation": None}}))
    assert report.to_json() == {"progress": {"step": 4}}


def test_an_unmodified_kubeflow_callback_reports():
    metrics = {"loss": "2.5", "learning_rate": "0.0003", "current_step": "12", "total_steps": "30", "name": "x"}
    status = {
        "lastUpdatedTime": "2026-01-31T12:00:00+00:00",
        "progressPercentage": 40,
        "estimatedRemainingSeconds": 65,
        "metrics": [{"name": name, "value": value} for name, value in metrics.items()],
    }
    expected = {"progress": {"percent": 40, "etaSeconds": 65, "step": 12}, "learningRate": 0.0003}
    assert read_report(body({"trainerStatus": status})).to_json() == expected
    assert read_report(body({"trainerStatus": {"lastUpdatedTime": "now"}})).to_json() == {}
    broken = [{"name": "learning_rate", "value": "nan"}, {"name": "current_step", "value": "-1"}]
    assert read_report(body({"trainerStatus": {"metrics": broken}})).to_json() == {}


def test_the_real_callback_of_transformers_is_understood(monkeypatch, tmp_path):
    """What its code posts, caught at its own HTTP call."""
    integrations = pytest.importorskip("transformers.integrations.integration_utils")
    posted: list[bytes] = []

    def post(request: Any, **_: Any) -> Any:
        posted.append(request.data)
        raise OSError("no server")

    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "https://localhost:1/v1")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(tmp_path / "token"))
    monkeypatch.setattr("urllib.request.urlopen", post)
    callback = integrations.KubeflowCallback()
    callback._update_status(progress_percent=42, estimated_time_remaining=7.5, metrics={"current_step": 5}, force=True)
    assert read_report(posted[0]).to_json() == {"progress": {"percent": 42, "etaSeconds": 7, "step": 5}}


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "body: found no JSON"),
    "no text": (b"\xff\xfe\x00", "body: found no JSON"),
    "a list": (b"[]", "body: found a list of 0, expected a JSON object"),
    "neither": (b"{}", "neither trainerStatus nor rewarm"),
    "nested too deep": (b'{"rewarm":' * 9000, "nested too deep"),
    "too large": (b" " * (MAXIMUM_BODY + 1), "expected at most"),
    "no finite number": (b'{"rewarm": {"learningRate": 1e999}}', "rewarm.learningRate: found Infinity"),
    "NaN": (b'{"rewarm": {"learningRate": NaN}}', "NaN is no JSON"),
    "a huge integer": (b'{"rewarm": {"progress": {"step": 1' + b"0" * 5000 + b"}}}", "too many digits"),
    "an integer over 2^53": (b'{"rewarm": {"progress": {"step": 9007199254740993}}}', "rewarm.progress.step: found"),
    "percent": (body({"rewarm": {"progress": {"percent": 250}}}), "0 <= percent <= 100"),
    "a report that is text": (body({"rewarm": "x"}), "rewarm: found x, expected a mapping"),
    "an outcome of no list": (body({"rewarm": {"outcome": "Fine"}}), "rewarm.outcome: found Fine"),
    "a deadline in words": (body({"rewarm": {"phase": {"deadline": "soon"}}}), "a moment such as 2026-01-31T12"),
    "no such month": (body({"rewarm": {"phase": {"deadline": "2026-99-01T00:00:00Z"}}}), "a moment such as"),
    "a time without a zone": (body({"rewarm": {"checkpoint": {"committedAt": "2026-01-01T00:00:00"}}}), "a moment"),
    "too many sets": (
        body({"rewarm": {"evaluation": [{"set": f"s{i}", "role": "New"} for i in range(129)]}}), "0 to 128 items",
    ),
    "a long address": (body({"rewarm": {"checkpoint": {"uri": "s" * 3000}}}), "rewarm.checkpoint.uri: found ssss"),
    "a text that is no Unicode": (b'{"rewarm": {"modelVersion": "\\ud800"}}', "rewarm.modelVersion"),
    "a decision in words": (body({"rewarm": {"decisions": [{"what": "raise it"}]}}), "one word"),
    "a status that is text": (body({"trainerStatus": 3}), "trainerStatus: found 3"),
    "percent of Kubeflow": (body({"trainerStatus": {"progressPercentage": 101}}), "trainerStatus.progressPercentage"),
    "percent as text": (body({"trainerStatus": {"progressPercentage": "40"}}), "trainerStatus.progressPercentage"),
    "metrics of no list": (body({"trainerStatus": {"metrics": {}}}), "trainerStatus.metrics: found"),
    "a metric of no name": (body({"trainerStatus": {"metrics": [4]}}), "trainerStatus.metrics[0]: found 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_body_is_refused_in_one_clear_line(name):
    sent, message = BROKEN[name]
    with pytest.raises(ReportError) as caught:
        read_report(sent)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) <= 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.sampled_from([*FULL, "uri", "x"]), child),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_or_refused(value):
    for key in ("rewarm", "trainerStatus"):
        try:
            report = read_report(body({key: value}))
        except ReportError:
            continue
        assert read_report(body({"rewarm": report.to_json()})) == report


TEXT = st.text(st.characters(codec="utf-8"), max_size=2000)
COUNT = st.integers(0, 2**53 - 1)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(st.binary(max_size=2000) | st.binary(max_size=200).map(lambda data: b'{"rewarm": ' + data + b"}"))
def test_any_bytes_are_read_or_refused(data):
    _read_or_refuse(data)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A whole report with pieces of it cut out, doubled or overwritten."""
    data = bytearray(body({"rewarm": FULL}))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        piece = draw(st.sampled_from([b"", bytes(data[start:end]) * 2, b"1e999", b"-1", b'"', b"[" * 3000, b"\xff"]))
        data[start:end] = piece
    return bytes(data)


@settings(deadline=None)
@given(damaged())
def test_a_damaged_report_is_read_or_refused(data):
    _read_or_refuse(data)


@settings(deadline=None)
@given(st.sampled_from(sorted(FULL)), JSON)
def test_any_value_in_any_field_is_read_or_refused(field, value):
    _read_or_refuse(body({"rewarm": {**FULL, field: value}}))


def _read_or_refuse(data: bytes) -> None:
    """One of both, in one printable line, and nothing that was read is larger than what came."""
    try:
        found = body(read_report(data).to_json())
    except ReportError as error:
        found = str(error).encode()
        line = str(error)
    else:
        line = ""
    assert line.isprintable()
    assert len(line) <= 500
    assert line or len(found) <= 6 * len(data) + 200


@st.composite
def terminations(draw: st.DrawFn) -> Termination:
    sets = [
        {"set": f"s{i}", "role": "New", "baseline": draw(NUMBER), "delta": {"mean": draw(NUMBER), "low": 0.1}}
        for i in range(draw(st.sampled_from([0, 1, 5, 128])))
    ]
    report = Report.model_validate(
        {
            "evaluation": sets,
            "outcome": "Diverged",
            "checkpoint": {"uri": draw(TEXT), "step": draw(COUNT)},
            "attempt": {"number": 3},
            "warnings": draw(st.lists(TEXT, max_size=16)),
            "decisions": [{"what": "RaiseReplay", "why": draw(TEXT)}],
            "gates": [{"name": "g" * 256, "limit": 0.0, "result": "Pass"}] * draw(st.sampled_from([0, 16])),
        }
    )
    sources = {f"s{i}": SourceCount(documents=draw(COUNT)) for i in range(draw(st.sampled_from([0, 128])))}
    pins = PinsSummary(uri=draw(TEXT), digest="sha256:" + "0" * 64, tokens=draw(COUNT), sources=sources)
    return Termination(
        outcome="Diverged",
        message=draw(TEXT),
        exit_code=76,
        report=draw(st.sampled_from([report, None])),
        pins=draw(st.sampled_from([pins, None])),
        tags={f"t{i}": draw(st.text(st.characters(codec="utf-8"), max_size=512)) for i in range(4)},
    )


@settings(max_examples=60, deadline=None)
@given(terminations(), st.sampled_from([128, 400, 1000, 4000]))
def test_a_termination_message_always_fits_and_is_always_read(termination, limit):
    text = termination.to_message(limit)
    assert len(text.encode()) <= limit
    read = Termination.parse(text)
    assert read is not None
    assert (read.outcome, read.exit_code) == ("Diverged", 76)


def test_a_termination_message_travels_whole_when_it_fits():
    termination = Termination(
        outcome="Succeeded",
        message="trained and judged",
        report=Report.model_validate(FULL),
        pins=PinsSummary(uri="s3://cache/runs/u/pins.json", sources={"notes": SourceCount(documents=1, rows=2)}),
        tags={"rewarm.dev/run": "notes"},
    )
    assert Termination.parse(termination.to_message()) == termination


def test_what_is_needed_least_goes_first():
    report = Report(
        evaluation=STATUS["evaluation"],
        checkpoint=Checkpoint(uri="s3://runs/a/step-00000640/", step=640),
        warnings=["w" * 300],
        decisions=[Decided(what="RaiseReplay", why="r" * 300)],
    )
    termination = Termination(outcome="Succeeded", message="m" * 1000, report=report, tags={"k": "t" * 300})

    def kept(limit: int) -> list[str]:
        text = termination.to_message(limit)
        return [
            name
            for name, sign in {
                "tags": "ttt", "decisions": "rrr", "warnings": "www", "intervals": '"low"', "losses": '"baseline"',
                "sets": "pubmed", "message": "m" * 300, "checkpoint": "step-00000640",
            }.items()
            if sign in text
        ]  # fmt: skip

    seen = [kept(limit) for limit in range(3000, 127, -8)]
    names = seen[0]
    assert names == ["tags", "decisions", "warnings", "intervals", "losses", "sets", "message", "checkpoint"]
    assert {tuple(item) for item in seen} == {tuple(names[drop:]) for drop in range(len(names) + 1)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Killed",
        "{",
        "[]",
        "{}",
        "1",
        "\ud800",
        '{"version": 2}',
        '{"version": 1, "exitCode": 999}',
        '{"exitCode": 0}',
    ],
)
def test_free_text_and_other_versions_are_no_termination(text):
    assert Termination.parse(text) is None
