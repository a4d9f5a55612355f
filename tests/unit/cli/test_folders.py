"""Commands that read a work folder: report, checkpoints, export, compare."""

from __future__ import annotations

import json

import pytest

from rewarm_trainer.checkpoint import Checkpoints
from rewarm_trainer.report import Facts, Loss, SetFacts, build_report
from rewarm_trainer.storage import LocalStorage


@pytest.fixture
def finished(tmp_path):
    """A folder with the report of a run."""
    loss = Loss(3.0, 1.5)
    sets = {"old": SetFacts(role="Retained", documents=40, tokens=1000, baseline=loss, final=loss)}
    facts = Facts("demo", "u", "sha256:0", "Succeeded", requested_tokens=1000, trained_tokens=1000, sets=sets)
    (tmp_path / "report.json").write_text(json.dumps(build_report(facts)))
    return tmp_path


@pytest.fixture
def committed(tmp_path):
    """A folder with three checkpoints: two committed, one cut off before its marker."""
    checkpoints = Checkpoints(LocalStorage(tmp_path / "checkpoints"), tmp_path / "staging")
    checkpoints.claim({"pid": 1})
    for step in (10, 20, 30):
        folder = checkpoints.stage(step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(b"weights of step %d" % step)
        checkpoints.commit(step, step * 100, folder)
    (tmp_path / "checkpoints" / "step-00000030" / "COMMITTED").unlink()
    return tmp_path


def test_report_as_json_is_the_file(rewarm, finished):
    result = rewarm("report", finished, "-o", "json")
    assert result.code == 0
    assert result.json == json.loads((finished / "report.json").read_text())


def test_report_for_people(rewarm, finished):
    result = rewarm("report", finished)
    for word in ("demo", "old", "Retained", "3.0000", "not promoted"):
        assert word in result.out


def test_report_as_a_page_says_where(rewarm, finished, tmp_path):
    page = tmp_path / "pages" / "out.html"
    result = rewarm("report", finished, "--html", page, "-o", "json")
    assert result.code == 0
    assert result.json["version"] == 1
    assert str(page) in result.err
    assert page.read_text().startswith("<!")


@pytest.mark.parametrize("command", ["report", "checkpoints", "export"])
def test_a_folder_that_is_not_there_is_66(rewarm, tmp_path, command):
    folder = tmp_path / "none"
    result = rewarm(command, folder, *([tmp_path / "out"] if command == "export" else []))
    assert (result.code, result.out) == (66, "")
    assert str(folder) in result.err


def test_compare_with_nothing_is_66(rewarm, tmp_path):
    result = rewarm("compare", tmp_path / "a", tmp_path / "b")
    assert (result.code, result.out) == (66, "")
    assert str(tmp_path / "a") in result.err


def test_every_checkpoint_is_listed_and_a_missing_marker_is_no_fault(rewarm, committed):
    result = rewarm("checkpoints", committed, "--verify", "-o", "json")
    assert result.code == 0
    facts = [(item["step"], item["tokens"], item["committed"], item["verified"]) for item in result.json]
    assert facts == [(10, 1000, True, True), (20, 2000, True, True), (30, 3000, False, None)]
    assert "COMMITTED" in result.json[2]["reason"]
    assert all(item["size"] > 0 for item in result.json)


def test_a_flipped_byte_is_65_and_named(rewarm, committed):
    path = committed / "checkpoints" / "step-00000020" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    assert rewarm("checkpoints", committed, "-o", "json").json[1]["verified"] is None
    result = rewarm("checkpoints", committed, "--verify", "-o", "json")
    assert result.code == 65
    assert result.json[1]["verified"] is False
    assert "model.safetensors" in result.json[1]["reason"]
    people = rewarm("checkpoints", committed, "--verify")
    assert people.code == 65
    assert "model.safetensors" in people.out


def test_a_manifest_without_its_checkpoint_is_66(rewarm, committed, tmp_path):
    result = rewarm("export", committed, tmp_path / "out", "--checkpoint", "step-00000099")
    assert result.code == 66
    assert "step-00000010" in result.err
