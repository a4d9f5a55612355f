"""`resolution` of `rewarm plan`: from the run that is continued, from files, or assumed, and it says which."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rewarm_api.pins import Pins, SetPin
from rewarm_api.resolve import resolve
from rewarm_api.validate import validate
from rewarm_trainer.files import write_json
from rewarm_trainer.workdir import WorkFolder, write_snapshot

DOCUMENTS = 80


def sets(result):
    assert result.code == 0, result.err
    return result.json["resolution"]["sets"]


def test_assumed_where_nothing_can_be_read(rewarm, manifest):
    result = rewarm("plan", manifest(), "-o", "json")
    facts = sets(result)
    assert set(facts) == {"a", "b", "c"}
    assert {(each["documents"], each["spread"]) for each in facts.values()} == {(64, 0.1)}
    assert all(each["documents_from"].startswith("assumed") for each in facts.values())
    assert all(each["spread_from"].startswith("assumed") for each in facts.values())
    assert result.json["resolution"]["power"] == 0.8
    shown = rewarm("plan", manifest())
    assert "Smallest change that shows" in shown.out
    assert "assumed: no earlier pair of models" in " ".join(shown.out.split())


def test_counted_in_files_that_are_there(rewarm, manifest, tmp_path):
    texts = ["word " * (10 + number % 40) for number in range(1000)]
    path = manifest(evaluation={"sets": [{"name": "a"}, {"name": "exam", "role": "Retained", "uri": "exam.jsonl"}]})
    (path.parent / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (path.parent / "exam.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:20]))
    facts = sets(rewarm("plan", path, "-o", "json"))
    assert facts["a"]["documents"] == 64, "5 % of 1,000, at least 64"
    assert 0.5 * 64 < facts["a"]["effective_documents"] < 64
    assert "1000 documents counted" in facts["a"]["documents_from"]
    assert (facts["exam"]["documents"], facts["exam"]["verdict"]) == (20, False)


@pytest.fixture
def earlier(manifest, tmp_path):
    """The folder of a finished run `before` with the sets of the test manifest, scored before and after."""
    document = json.loads(json.dumps(MANIFEST_OF(manifest)))
    document["metadata"]["name"] = "before"
    snapshot = resolve(validate(document, local=True).run, uid="1")
    work = WorkFolder(tmp_path / "before")
    write_snapshot(work, snapshot)
    write_json(work.manifest, {"root": str(manifest().parent), "manifest": document})
    pin = SetPin(digest="sha256:0", prepared="sha256:0", documents=DOCUMENTS, tokens=100)
    pins = Pins(
        base_model={"kind": "file"},
        tokenizer="t",
        eos=0,
        bos=None,
        vocabulary=10,
        sources={},
        sets=dict.fromkeys("abc", pin),
        plan=snapshot.plan,
    )
    write_json(work.pins, pins.to_json())
    draw = np.random.default_rng(0)
    for name in "abc":
        labels = draw.integers(50, 150, DOCUMENTS)
        base = {"hashes": [], "nats": (3.0 * labels).tolist(), "labels": labels.tolist(), "bytes": []}
        after = labels * (2.5 + 0.2 * draw.normal(size=DOCUMENTS))
        write_json(work.state / "baseline" / f"{name}.json", base)
        write_json(work.state / "final" / f"{name}.json", {**base, "nats": after.tolist()})
    return work.root


def MANIFEST_OF(manifest):
    import yaml

    return yaml.safe_load(manifest().read_text())


def test_measured_by_the_run_that_is_continued(rewarm, manifest, earlier):
    """Set a is the same text; b's uri changed; c is not among the new run's sources, so it is inherited."""
    sources = [
        {"name": "a", "uri": "a.jsonl", "weight": 5, "license": "CC0"},
        {"name": "b", "uri": "other.jsonl", "weight": 3, "license": "CC0"},
    ]
    path = manifest(baseModel={"run": {"path": str(earlier)}}, corpus={"sources": sources})
    facts = sets(rewarm("plan", path, "-o", "json"))
    assert facts["a"]["spread"] == pytest.approx(0.2, rel=0.25)
    assert facts["a"]["spread_from"] == "measured by run before"
    assert (facts["a"]["documents"], facts["a"]["documents_from"]) == (DOCUMENTS, "run before")
    assert facts["b"]["documents_from"].startswith("assumed")
    assert (facts["c"]["inherited"], facts["c"]["role"]) == (True, "Retained")
    assert facts["c"]["documents"] == DOCUMENTS


def test_a_run_that_is_not_there_yet_is_no_error(rewarm, manifest):
    path = manifest(baseModel={"run": {"path": "nowhere"}})
    assert set(sets(rewarm("plan", path, "-o", "json"))) == {"a", "b", "c"}
