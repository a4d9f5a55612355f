"""Three stages, each by `rewarm run`: later ones score the sets of earlier ones, and say what the chain forgot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rewarm_world import World, functions, paragraphs, write_lines

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = ("spec.training.sequenceLength=32", "spec.training.globalBatchTokens=256", "spec.evaluation.lookTokens=2000")


def sets(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def scores(world: World, stage: str, kind: str, name: str) -> dict[str, Any]:
    return json.loads((world.root / "chain" / stage / "state" / kind / f"{name}.json").read_text())


def loss(world: World, stage: str, kind: str, name: str) -> float:
    found = scores(world, stage, kind, name)
    return sum(found["nats"]) / sum(found["labels"])


@pytest.fixture(scope="session")
def chain(world: World) -> dict[str, dict[str, Any]]:
    """Reports of the stages prose, code and notes. Before the last one the cache and the first folder are gone."""
    prose = world.root / "data" / "general.jsonl"
    texts, root = functions(), world.root / "chain"
    code = [{"text": text, "origin": f"module-{number % 2}"} for number, text in enumerate(texts[:300])]
    (root / "code.jsonl").parent.mkdir(exist_ok=True)
    (root / "code.jsonl").write_text("".join(json.dumps(line) + "\n" for line in code))
    first = sets(f"spec.corpus.sources[0].uri={prose}", "spec.budget.tokens=10240", *TINY)
    done = world.run(EXAMPLES / "chain-1.yaml", "chain/prose", *first)
    assert done.code == 0, done.err
    base = f"spec.baseModel.run.path={root / 'prose'}"
    second = sets(f"spec.corpus.sources[0].uri={root / 'code.jsonl'}", base, "spec.budget.tokens=5120", *TINY)
    done = world.run(EXAMPLES / "chain-2.yaml", "chain/code", *second)
    assert done.code == 0, done.err
    shutil.rmtree(root / "prose")
    write_lines(root / "notes.jsonl", paragraphs()[400:600])
    # A set of a stage that is named like one of an earlier stage.
    source = {"name": "code", "uri": str(root / "notes.jsonl"), "license": "PSF-2.0"}
    manifest = world.manifest(
        "notes",
        baseModel={"run": {"path": str(root / "code")}},
        corpus__sources=[source],
        replay=None,
        budget={"tokens": 2560},
    )
    done = world.run(manifest, "chain/notes", XDG_CACHE_HOME=str(root / "another-cache"))
    assert done.code == 0, done.err
    return {name: json.loads((root / name / "report.json").read_text()) for name in ("code", "notes")}


def test_a_stage_inherits_the_sets_of_the_one_before_it(chain: dict[str, dict[str, Any]]) -> None:
    report = chain["code"]
    assert {name: value["role"] for name, value in report["sets"].items()} == {"code": "New", "general": "Retained"}
    assert report["forgetting"]["max"] == report["sets"]["general"]["delta"]["mean"]
    assert [gate["name"] for gate in report["gates"]] == ["maxForgetting", "minGain"]
    assert all(gate["value"] is not None for gate in report["gates"])


def test_sets_travel_with_the_folder_of_a_run(chain: dict[str, dict[str, Any]]) -> None:
    """Another machine's cache, and the first stage's folder gone: all sets are there, under names that are free."""
    report = chain["notes"]
    assert list(report["chain"]["sets"]) == ["general", "code-code", "code"]
    assert {name: value["introduced"] for name, value in report["chain"]["sets"].items()} == {
        "general": "prose",
        "code-code": "code",
        "code": "notes",
    }
    assert [stage["name"] for stage in report["chain"]["stages"]] == ["prose", "code", "notes"]
    assert report["chain"]["missing"] == []


def test_the_matrix_is_what_the_stages_measured(world: World, chain: dict[str, dict[str, Any]]) -> None:
    facts = chain["notes"]["chain"]
    rows = [row["loss"] for row in facts["rows"]]
    assert [row["after"] for row in facts["rows"]] == [None, "prose", "code", "notes"]
    by_hand = {
        "general": [None, *(loss(world, *place) for place in places("general"))],
        "code-code": [
            None,
            loss(world, "code", "baseline", "code"),
            *(loss(world, *p) for p in places("code-code")[1:]),
        ],
        "code": [None, None, loss(world, "notes", "baseline", "code"), loss(world, "notes", "final", "code")],
    }
    for name, expected in by_hand.items():
        found = [row[name] for row in rows]
        assert found[1:] == [None if value is None else pytest.approx(value) for value in expected[1:]]
    assert rows[0]["general"] > rows[1]["general"], "the first stage learned it"
    assert rows[0]["code"] is None
    old = [by_hand[name] for name in ("general", "code-code")]
    backward = np.mean([by_hand["general"][1] - old[0][3], by_hand["code-code"][2] - old[1][3]])
    assert facts["backwardTransfer"] == pytest.approx(backward)
    best = [min(value for value in column[:3] if value is not None) for column in old]
    best[0] = min(best[0], rows[0]["general"])
    assert facts["forgettingFromBest"] == pytest.approx(
        np.mean([column[3] - low for column, low in zip(old, best, strict=True)])
    )
    vocabulary = json.loads((world.root / "chain" / "notes" / "pins.json").read_text())["vocabulary"]
    before = [by_hand["code-code"][1], by_hand["code"][2]]
    assert facts["forwardTransfer"] == pytest.approx(np.mean([np.log(vocabulary) - value for value in before]))


def places(name: str) -> list[tuple[str, str, str]]:
    """Where the models after prose, code and notes were scored on an inherited set."""
    return [("code", "baseline", name), ("notes", "baseline", name), ("notes", "final", name)]


def test_the_page_and_the_tracking_run_show_it(world: World, chain: dict[str, dict[str, Any]]) -> None:
    folder = world.root / "chain" / "notes"
    page, drawn = (folder / "report.html").read_text(), (folder / "chain.svg").read_text()
    assert drawn in page
    assert "Forgetting from best" in page
    done = world.rewarm("report", folder, "-o", "json")
    assert done.json["chain"] == chain["notes"]["chain"]
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = client.get_run(chain["notes"]["tracking"]["run_id"])
    assert run.data.metrics["chain/forgetting_from_best"] == chain["notes"]["chain"]["forgettingFromBest"]
    assert run.data.metrics["chain/backward_transfer"] == chain["notes"]["chain"]["backwardTransfer"]
    assert (folder / "mlartifacts" / run.info.run_id / "artifacts" / "chain.svg").read_text() == drawn


def test_a_column_of_a_set_breaks_its_verdict_down(world: World, chain: dict[str, dict[str, Any]]) -> None:
    groups = chain["code"]["sets"]["code"]["breakdown"]["label"]
    assert set(groups) == {"module-0", "module-1"}
    assert sum(group["documents"] for group in groups.values()) == chain["code"]["sets"]["code"]["documents"]
    assert "code, part by part" in (world.root / "chain" / "code" / "report.html").read_text()
    assert "breakdown" not in chain["code"]["sets"]["general"]


def continued(world: World, name: str, **changes: Any) -> Path:
    return world.manifest(
        name, baseModel={"run": {"path": "chain/code"}}, replay=None, budget={"tokens": 512}, **changes
    )


def test_a_set_that_the_lineage_was_trained_on_is_refused(world: World, chain: dict[str, dict[str, Any]]) -> None:
    """Two stages back: the text stands in the prose that the base's own base was trained on."""
    held_out = set(scores(world, "code", "baseline", "general")["hashes"])
    from hashlib import sha256

    trained = [text for text in paragraphs()[:300] if sha256(text.encode()).hexdigest() not in held_out]
    write_lines(world.root / "chain" / "seen.jsonl", [*paragraphs()[700:760], *trained[:3]])
    asked = [{"name": "exam", "role": "Retained", "uri": str(world.root / "chain" / "seen.jsonl")}]
    done = world.run(continued(world, "cheat", evaluation__sets=asked), "chain/cheat")
    assert done.code == 65
    assert "evaluation set 'exam': 3 of its documents" in done.err
    assert "source 'general' of prose, an earlier stage" in done.err


def test_held_out_text_that_the_lineage_was_trained_on_is_named(world: World, chain: dict[str, dict[str, Any]]) -> None:
    """Stage 1's text again, held out by origin now and so other documents: each way round the report says which set."""
    path = world.root / "chain" / "mixed.jsonl"
    lines = [{"text": text, "origin": f"part-{number // 3}"} for number, text in enumerate(paragraphs()[:300])]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"name": "mixed", "uri": str(path), "groupField": "origin", "license": "PSF-2.0"}
    done = world.run(continued(world, "mixed", corpus__sources=[source]), "chain/mixed")
    assert done.code == 0, done.err
    report = json.loads((world.root / "chain" / "mixed" / "report.json").read_text())
    flagged = {(each["set"], each["stage"]) for each in report["chain"]["seen"]}
    assert flagged == {("mixed", "prose"), ("general", "mixed")}
    assert any("set 'mixed'" in warning and "stage prose" in warning for warning in report["warnings"])


def test_text_that_the_base_only_had_at_hand_is_no_text_it_was_trained_on(world: World) -> None:
    """Replay at ratio 0: it gave the tokenizer words, and the model nothing."""
    write_lines(world.root / "chain" / "unused.jsonl", functions()[300:420])
    unused = {"name": "unused", "uri": str(world.root / "chain" / "unused.jsonl"), "license": "PSF-2.0"}
    base = world.manifest("at-hand", replay={"ratio": 0, "sources": [unused]}, budget={"tokens": 512})
    assert world.run(base, "chain/at-hand").code == 0
    asked = [{"name": "exam", "role": "Retained", "uri": unused["uri"]}]
    on = {"baseModel": {"run": {"path": "chain/at-hand"}}, "replay": None, "budget": {"tokens": 512}}
    done = world.run(world.manifest("fair", **on, evaluation__sets=asked), "chain/fair")
    assert done.code == 0, done.err
