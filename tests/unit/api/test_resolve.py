"""A manifest to its snapshot: pure, complete, and the same bytes everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_api.errors import ManifestError
from rewarm_api.manifest import read_manifest
from rewarm_api.resolve import epochs_to_tokens, make_plan, resolve
from rewarm_api.snapshot import Decay, Group, Role, SegmentKind, Snapshot
from rewarm_api.validate import validate

HERE = Path(__file__).parent
REPLAY = "{ratio: 0.25, sources: [{name: general, uri: general.jsonl, license: MIT}]}"


@pytest.fixture
def snapshot(check) -> Callable[..., Snapshot]:
    """The snapshot of the minimal manifest after changes, wherever it may run."""

    def resolved(changes: dict[str, Any] | None = None, uid: str = "uid") -> Snapshot:
        result = check(changes or {}, local=None)
        assert result.problems == ()
        return resolve(result.run, uid=uid)

    return resolved


@pytest.mark.parametrize("name", ["minimal", "full"])
def test_the_snapshot_is_the_golden_file(name):
    """To accept a wanted change: REWARM_WRITE_GOLDEN=1 pytest, and read the difference. Old runs keep their digest."""
    run = validate(read_manifest(HERE / f"{name}.yaml"), local=None).run
    snapshot = resolve(run, uid="00000000-0000-0000-0000-000000000000")
    made = {"digest": snapshot.digest, "snapshot": snapshot.to_json()}
    golden = HERE / f"{name}.snapshot.json"
    if os.environ.get("REWARM_WRITE_GOLDEN"):
        golden.write_text(json.dumps(made, indent=1) + "\n")
    assert made == json.loads(golden.read_text())


def test_a_snapshot_survives_json(snapshot):
    made = snapshot({"spec.budget": "{epochs: 2.50}", "spec.replay": REPLAY})
    again = Snapshot.model_validate_json(json.dumps(made.to_json()))
    assert again == made
    assert again.digest == made.digest


def test_the_digest_is_the_same_in_another_process():
    code = (
        "import sys; from rewarm_api.manifest import read_manifest; from rewarm_api.validate import validate;"
        "from rewarm_api.resolve import resolve;"
        "print(resolve(validate(read_manifest(sys.argv[1]), local=True).run, uid='x').digest)"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "99", "PATH": ""}
    arguments = [sys.executable, "-c", code, str(HERE / "minimal.yaml")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == json.loads((HERE / "minimal.snapshot.json").read_text())["digest"]


@pytest.mark.parametrize(
    "changes",
    [
        {"spec.budget.tokens": "64000"},
        {"spec.budget.tokens": "6.4e4"},
        {"spec.schedule.warmup": "1.0%"},
        {"spec.schedule.warmup": "1%"},
        {"spec.schedule.kind": "Rewarm"},
        {"spec.schedule.finalLearningRate": "1e-4"},
        {"spec.training.seed": "0"},
        {"spec.replay": "{ratio: 0}"},
        {"spec.replay": "null"},
        {"spec.tracking.experiment": "minimal"},
        {"spec.baseModel.scratch.tokenizer": "{}"},
        {"spec.corpus.sources[0].format": "Text"},
        {"spec.suspend": "true", "spec.compute.nodes": "4", "spec.retries.maxFailures": "0"},
    ],
)
def test_what_is_the_same_has_the_same_digest(snapshot, changes):
    assert snapshot(changes, uid="another").digest == snapshot().digest


@pytest.mark.parametrize(
    "changes",
    [
        {"spec.budget.tokens": "65K"},
        {"spec.training.seed": "1"},
        {"spec.schedule.peakLearningRate": "2e-3"},
        {"spec.replay": REPLAY},
        {"spec.gates": "{minGain: 0.1}"},
        {"metadata.name": "another"},
    ],
)
def test_what_differs_has_another_digest(snapshot, changes):
    assert snapshot(changes).digest != snapshot().digest


def test_on_forgetting_may_change_at_any_time(snapshot):
    changes = {"spec.gates": "{maxForgetting: 0.1}", "spec.replay": REPLAY}
    watched = snapshot({**changes, "spec.gates.onForgetting": "Stop"})
    assert watched.digest == snapshot(changes).digest
    assert watched.gates.on_forgetting == "Stop"


def test_equal_numbers_have_equal_digests(snapshot):
    assert snapshot({"spec.budget": "{epochs: 2}"}).digest == snapshot({"spec.budget": "{epochs: 2.0}"}).digest
    assert snapshot({"spec.budget": "{epochs: 1e-3}"}).budget.epochs == Decimal("0.001")


def test_the_budget_comes_in_whole_steps(snapshot):
    plan = snapshot({"spec.budget.tokens": "64001"}).plan
    assert (plan.requested_tokens, plan.tokens_per_step, plan.rows_per_step) == (64001, 1024, 16)
    assert (plan.steps, plan.tokens) == (63, 63 * 1024)
    assert snapshot({"spec.budget.tokens": "1024"}).plan.steps == 1
    assert snapshot({"spec.budget.tokens": "1025"}).plan.steps == 2


def test_looks_and_checkpoints_have_defaults_of_at_least_a_step(snapshot):
    plan = snapshot({"spec.budget.tokens": "1024000"}).plan
    assert (plan.evaluation_every, plan.checkpoint_every) == (51_200, 102_400)
    plan = snapshot({"spec.budget.tokens": "4096"}).plan
    assert (plan.evaluation_every, plan.checkpoint_every) == (1024, 1024)
    marks = {"spec.evaluation.every": "10%", "spec.checkpoints.every": "5K", "spec.budget.tokens": "1024000"}
    plan = snapshot(marks).plan
    assert (plan.evaluation_every, plan.checkpoint_every) == (102_400, 5000)


def test_sets_default_to_one_per_source(snapshot):
    sets = snapshot({"spec.replay": REPLAY}).evaluation.sets
    assert [(item.name, item.role, item.uri) for item in sets] == [
        ("general", Role.RETAINED, None),
        ("notes", Role.NEW, None),
    ]


def test_an_arm_without_replay_still_measures_forgetting(snapshot):
    made = snapshot({"spec.replay": REPLAY, "spec.replay.ratio": "0"})
    assert made.replay.ratio == 0
    assert [source.name for source in made.group(Group.REPLAY)] == ["general"]
    assert {item.name: item.role for item in made.evaluation.sets}["general"] is Role.RETAINED


def test_a_set_of_a_source_reads_as_the_source_does(snapshot):
    source = "{name: notes, uri: notes.jsonl.gz, textField: body, license: MIT}"
    made = snapshot({"spec.corpus.sources[0]": source, "spec.evaluation.sets": "[{name: notes, labelField: topic}]"})
    (item,) = made.evaluation.sets
    assert (item.role, item.format, item.text_field, item.label_field) == (Role.NEW, "JsonLines", "body", "topic")


def test_sources_are_sorted_by_name(snapshot):
    sources = "[{name: z, uri: z.txt, license: MIT}, {name: a, uri: a.txt, license: MIT}]"
    made = snapshot({"spec.corpus.sources": sources, "spec.replay": REPLAY})
    assert [source.name for source in made.sources] == ["a", "general", "z"]


@pytest.mark.parametrize(
    ("uri", "format"),
    [
        ("a.parquet", "Parquet"), ("a.JSONL", "JsonLines"), ("s3://b/*.jsonl.gz", "JsonLines"), ("a.txt.zst", "Text"),
        ("a/b.md", "Text"), ("a.ndjson", "JsonLines"), ("hf://datasets/a/b", None), ("file:///x/a.text", "Text"),
    ],
)  # fmt: skip
def test_the_suffix_tells_the_format(snapshot, uri, format):
    assert snapshot({"spec.corpus.sources[0].uri": uri}).sources[0].format == format


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "Reset"),
        ({"spec.schedule.optimizerState": "ResetMoments"}, "ResetMoments"),
        ({"spec.baseModel": "{run: {path: x}}"}, "Auto"),
        ({"spec.baseModel": "{run: {path: x}}", "spec.schedule.optimizerState": "Keep"}, "Keep"),
        ({"spec.baseModel": "{run: {path: x}}", "spec.schedule.optimizerState": "Reset"}, "Reset"),
    ],
)
def test_optimizer_state(snapshot, changes, state):
    assert snapshot(changes).schedule.optimizer_state == state


@pytest.mark.parametrize(
    ("base", "kind", "options"),
    [
        ("{huggingFace: {repo: a/b}}", "huggingFace", {"repo": "a/b", "revision": "main"}),
        ("{s3: {uri: s3://a/b/}}", "s3", {"uri": "s3://a/b/"}),
        ("{file: {path: ./base}}", "file", {"path": "./base"}),
        ("{mlflow: {model: m, alias: champion}}", "mlflow", {"model": "m", "alias": "champion"}),
        ("{run: {path: runs/a}}", "run", {"path": "runs/a", "checkpoint": "Final"}),
        ("{run: {name: a, checkpoint: 12}}", "run", {"name": "a", "checkpoint": 12}),
    ],
)
def test_base_models(snapshot, base, kind, options):
    made = snapshot({"spec.baseModel": base}).base_model
    assert (made.kind, made.options) == (kind, options)


def test_a_scratch_model_keeps_its_config_and_gets_a_tokenizer(snapshot):
    options = snapshot().base_model.options
    assert options["config"]["hidden_size"] == 64
    assert options["tokenizer"] == {"vocabularySize": 4096}
    file = snapshot({"spec.baseModel.scratch.tokenizer": "{file: ./tok}"}).base_model.options["tokenizer"]
    assert file == {"file": "./tok"}


def test_gates_without_limits_are_no_gates(snapshot):
    assert snapshot({"spec.gates": "{}"}).gates is None


def kinds(plan) -> list[tuple[str, int, int, float, float]]:
    return [(piece.kind.value, piece.start, piece.end, piece.first, piece.last) for piece in plan.segments]


def test_segments_of_every_kind(snapshot):
    budget = {"spec.budget.tokens": "102400"}
    assert kinds(snapshot({**budget}).plan) == [
        ("Warmup", 0, 1024, 0.0, 1e-3),
        ("Decay", 1024, 102400, 1e-3, 1e-4),
    ]
    stable = "{kind: WarmupStableDecay, peakLearningRate: 1e-3, decayLength: 20%, warmup: 2048}"
    plan = snapshot({**budget, "spec.schedule": stable}).plan
    assert kinds(plan) == [
        ("Warmup", 0, 2048, 0.0, 1e-3),
        ("Constant", 2048, 81920, 1e-3, 1e-3),
        ("Decay", 81920, 102400, 1e-3, 1e-4),
    ]
    assert plan.segments[-1].decay is Decay.ONE_MINUS_SQRT
    constant = snapshot({**budget, "spec.schedule": "{kind: Constant, peakLearningRate: 1e-3, warmup: 0}"}).plan
    assert kinds(constant) == [("Constant", 0, 102400, 1e-3, 1e-3)]


def test_segments_of_an_infinite_schedule(snapshot):
    schedule = (
        "{kind: Infinite, peakLearningRate: 3e-4, constantLearningRate: 1.65e-4, finalLearningRate: 3e-5,"
        " cooldown: {length: 60%, decay: InverseSqrt, timescale: 4}, anneal: {length: 14%}}"
    )
    plan = snapshot({"spec.budget.tokens": "102400", "spec.schedule": schedule}).plan
    assert kinds(plan) == [
        ("Warmup", 0, 1024, 0.0, 3e-4),
        ("Cooldown", 1024, 62464, 3e-4, 1.65e-4),
        ("Constant", 62464, 88064, 1.65e-4, 1.65e-4),
        ("Anneal", 88064, 102400, 1.65e-4, 3e-5),
    ]
    assert [piece.decay for piece in plan.segments[1::2]] == [Decay.INVERSE_SQRT, Decay.EXPONENTIAL]
    assert plan.segments[1].timescale == 4
    assert not plan.trunk


def test_an_infinite_without_anneal_is_a_trunk(snapshot):
    schedule = "{kind: Infinite, peakLearningRate: 3e-4, constantLearningRate: 1e-4, cooldown: {length: 60%}}"
    made = snapshot({"spec.schedule": schedule})
    assert made.plan.trunk
    assert made.plan.segments[-1].kind is SegmentKind.CONSTANT
    assert made.schedule.final_learning_rate == 1e-4


@given(
    st.integers(1, 10**9),
    st.sampled_from(["0", "1%", "33.333%", "5K"]),
    st.sampled_from(["0%", "12.5%", "66.667%"]),
    st.sampled_from(["Rewarm", "WarmupStableDecay", "Infinite", "Constant"]),
)
def test_segments_cover_the_plan_without_a_gap(tokens, warmup, other, kind):
    document = read_manifest(HERE / "minimal.yaml")
    parts: dict[str, Any] = {
        "WarmupStableDecay": {"decayLength": other},
        "Infinite": {"constantLearningRate": 5e-4, "cooldown": {"length": other}, "anneal": {"length": "0%"}},
    }
    document["spec"]["schedule"] = {"kind": kind, "peakLearningRate": 1e-3, "warmup": warmup, **parts.get(kind, {})}
    document["spec"]["budget"] = {"tokens": max(tokens, 20_000)}
    plan = resolve(validate(document, local=True).run, uid="u").plan
    borders = [0] + [piece.end for piece in plan.segments]
    assert [piece.start for piece in plan.segments] == borders[:-1]
    assert borders[-1] == plan.tokens
    assert all(piece.end > piece.start for piece in plan.segments)


def test_epochs_count_corpus_rows(snapshot):
    made = snapshot({"spec.budget": "{epochs: 1.5}", "spec.replay": REPLAY})
    assert made.plan is None
    assert epochs_to_tokens(made, 1000) == 1000 * 3 // 2 * 64 * 4 // 3
    assert make_plan(made, epochs_to_tokens(made, 1000)).steps == 125


@given(st.integers(1, 10**12), st.integers(1, 999), st.decimals("0.001", 100, places=3))
def test_epochs_come_to_the_ceiling_in_exact_arithmetic(rows, thousandths, epochs):
    document = read_manifest(HERE / "minimal.yaml")
    document["spec"]["replay"] = {"ratio": thousandths / 1000, "sources": [{"name": "g", "uri": "g.txt"}]}
    document["spec"]["budget"] = {"epochs": float(epochs)}
    made = resolve(validate(document, local=True).run, uid="u")
    exact = Fraction(epochs) * rows * 64 / (1 - Fraction(thousandths, 1000))
    assert epochs_to_tokens(made, rows) - 1 < exact <= epochs_to_tokens(made, rows)


def test_a_plan_in_epochs_is_checked_when_the_corpus_is_counted(snapshot):
    made = snapshot({"spec.budget": "{epochs: 1}", "spec.schedule.warmup": "1M"})
    assert made.plan is None
    with pytest.raises(ManifestError, match="the plan's 65536 tokens") as error:
        make_plan(made, 65536)
    assert error.value.problems[0].field == "spec.schedule.warmup"
    with pytest.raises(ValueError, match="in tokens"):
        epochs_to_tokens(snapshot(), 5)
