"""The CRD on a real kube-apiserver: what it takes, what it refuses and how it says so, and what stays immutable."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pod_templates
import pytest
from real_cluster import needs_control_plane

from rewarm_api.manifest import load_yaml, read_manifest, set_path
from rewarm_api.validate import validate
from rewarm_cluster.api import Api
from rewarm_cluster.control_plane import ControlPlane
from rewarm_cluster.processes import until

ROOT = Path(__file__).parents[2]
RUNS = "/apis/rewarm.dev/v1alpha1/namespaces/default/continualruns"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

pytestmark = [pytest.mark.slow, needs_control_plane("api")]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """An etcd and an API server with the committed CRD, of this module's own."""
    with ControlPlane("api") as cluster:
        status, answer = cluster.api.call("POST", CRDS, load_yaml((ROOT / "crds/continualruns.yaml").read_text()))
        assert status == 201, answer
        crd = cluster.api.wait(f"{CRDS}/continualruns.rewarm.dev", _established)
        assert crd is not None
        # Established comes a moment before the path is served.
        until(lambda: cluster.api.call("GET", RUNS)[0] == 200, 10)
        yield cluster.api


def _established(crd: dict[str, Any] | None) -> bool:
    conditions = (crd or {}).get("status", {}).get("conditions") or []
    return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)


def create(api: Api, document: dict[str, Any]) -> tuple[int, Any]:
    return api.call("POST", RUNS + "?fieldValidation=Strict", document)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A small manifest for a cluster, of a name of its own."""
    document = read_manifest(ROOT / "tests/unit/api/minimal.yaml")
    set_path(document, "spec.corpus.sources[0].uri", "s3://corpora/notes.txt")
    document["metadata"]["name"] = "r-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:24]
    return document


def changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(document)
    for path, text in changes.items():
        set_path(result, path, text)
    return result


def test_the_crd_is_established_and_structural(api):
    _, crd = api.call("GET", CRDS + "/continualruns.rewarm.dev")
    conditions = {item["type"]: item for item in crd["status"]["conditions"]}
    assert conditions["Established"]["status"] == "True"
    assert conditions["NamesAccepted"]["status"] == "True"
    assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize("name", ["minimal", "full"])
def test_whole_manifests_are_accepted(api, run, name):
    document = run if name == "minimal" else read_manifest(ROOT / "tests/unit/api/full.yaml")
    document["metadata"].pop("namespace", None)
    status, answer = create(api, document)
    assert status == 201, answer
    # Defaults go into the snapshot, never back into spec.
    assert answer["spec"] == document["spec"]


INFINITE = (
    "{kind: Infinite, peakLearningRate: 3e-4, constantLearningRate: 1e-4, finalLearningRate: 1e-5, warmup: 1%,"
    " cooldown: {length: 60%}, anneal: {length: 39%}}"
)

ACCEPTED: dict[str, dict[str, Any]] = {
    "an Infinite of exactly the plan": {"spec.schedule": INFINITE, "spec.budget.tokens": "2B"},
    "a stable schedule of exactly the plan": {
        "spec.schedule": "{kind: WarmupStableDecay, peakLearningRate: 1e-3, warmup: 33.333%, decayLength: 66.667%}"
    },
    "a run without replay that measures forgetting": {
        "spec.replay": "{ratio: 0, sources: [{name: general, uri: s3://c/g.jsonl}]}"
    },
    "a ratio from a study": {
        "spec.replay": "{fromStudy: {name: mix, tolerance: 3%}, sources: [{name: general, uri: s3://c/g.jsonl}]}"
    },
    "a raise of a ratio from a study": {
        "spec.replay": "{fromStudy: {name: mix}, sources: [{name: general, uri: s3://c/g.jsonl}]}",
        "spec.gates": "{onForgetting: RaiseReplay, maxForgetting: 0.1}",
    },
    "epochs": {"spec.budget": "{epochs: 1.5}"},
    "quantities as integers and text": {
        "spec.training.globalBatchTokens": "16K",
        "spec.training.sequenceLength": "100",
    },
    "a step number": {"spec.baseModel": "{run: {name: base, checkpoint: 1200}}"},
    "a kept optimizer": {
        "spec.baseModel": "{run: {name: base, checkpoint: Best}}",
        "spec.schedule.optimizerState": "Keep",
    },
    "a set with a uri": {"spec.evaluation.sets": "[{name: wiki, role: Retained, uri: s3://e/w.jsonl}]"},
    "null is absence": {"spec.activeDeadlineSeconds": "null", "spec.replay": "null", "spec.training.precision": "null"},
    "a run on the CPU": {"spec.compute": "{nodes: 4, gpusPerNode: 0}"},
    "free form in a config": {"spec.baseModel.scratch.config.rope_parameters": "{rope_type: yarn, factor: 2.5}"},
    "a whole pod template": {pod_templates.POD: pod_templates.WHOLE},
    "an empty pod template": {pod_templates.POD: "{}"},
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_these_are_accepted_by_the_server_and_by_validation(api, run, name):
    document = changed(run, ACCEPTED[name])
    status, answer = create(api, document)
    assert status == 201, answer
    assert validate(document, local=False).problems == ()


# (changes, what the server's message must hold)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"credentials in {field}": ({field: uri}, "an address without user and password")
        for field, uri in {
            "spec.corpus.sources[0].uri": "s3://user:canary@corpora/notes.txt",
            "spec.checkpoints.uri": "s3://user:canary@runs/",
            "spec.cache.uri": "s3://user@cache/",
            "spec.tracking.uri": "http://user:canary@mlflow:5000",
            "spec.baseModel": "{s3: {uri: 's3://user:canary@models/base/'}}",
        }.items()
    },
    **{
        f"a way out of a claim: {uri}": ({field: uri}, "a path inside the claim")
        for field, uri in {
            "spec.corpus.sources[0].uri": "claim://data/../runs/notes.txt",
            "spec.checkpoints.uri": "claim://data//etc/rewarm",
            "spec.cache.uri": "claim://data/a/..",
        }.items()
    },
    "a base model outside its claim": (
        {"spec.baseModel": "{volume: {claim: models, path: ../other}}"}, "a folder inside the claim",
    ),
    "tracking in a file of the operator": ({"spec.tracking.uri": "sqlite:////tmp/x.db"}, "http:// or https://"),
    "a name with dots": ({"metadata.name": "a.b"}, "host names derive from it"),
    "an unknown field": ({"spec.training.sequnceLength": "5"}, "sequnceLength"),
    "a ratio beyond one": ({"spec.replay": "{ratio: 1.2}"}, "spec.replay.ratio"),
    "a ratio of one": ({"spec.replay": "{ratio: 1, sources: [{name: g, uri: s3://c/g}]}"}, "spec.replay.ratio"),
    "replay of nothing": ({"spec.replay": "{ratio: 0.5}"}, "add sources to replay, or set ratio to 0"),
    "a ratio and a study": (
        {"spec.replay": "{ratio: 0.5, fromStudy: {name: mix}, sources: [{name: g, uri: s3://c/g.jsonl}]}"},
        "exactly one of ratio | fromStudy",
    ),
    "neither ratio nor study": (
        {"spec.replay": "{sources: [{name: g, uri: s3://c/g.jsonl}]}"}, "exactly one of ratio | fromStudy",
    ),
    "a study of nothing to replay": ({"spec.replay": "{fromStudy: {name: mix}}"}, "add sources to replay"),
    "a study in a folder": (
        {"spec.replay": "{fromStudy: {name: ../mix}, sources: [{name: g, uri: s3://c/g.jsonl}]}"}, "fromStudy.name",
    ),
    "the local form of a citation": (
        {"spec.replay": "{ratio: {fromStudy: ./mix}, sources: [{name: g, uri: s3://c/g.jsonl}]}"}, "spec.replay.ratio",
    ),
    "no base model": ({"spec.baseModel": "{}"}, "exactly one of huggingFace"),
    "two base models": ({"spec.baseModel.s3": "{uri: s3://a/b}"}, "exactly one of huggingFace"),
    "a base model on a laptop": ({"spec.baseModel": "{file: {path: x}}"}, "a cluster cannot read this machine's files"),
    "a run on a laptop": ({"spec.baseModel": "{run: {path: x}}"}, "a cluster cannot read this machine's files"),
    "a tokenizer on a laptop": (
        {"spec.baseModel.scratch.tokenizer": "{file: tok}"}, "a cluster cannot read this machine's files",
    ),
    "a corpus on a laptop": ({"spec.corpus.sources[0].uri": "./x.txt"}, "a cluster cannot read this machine's files"),
    "a config without a type": ({"spec.baseModel.scratch.config": "{hidden_size: 4}"}, "model_type"),
    "two budgets": ({"spec.budget.epochs": "1"}, "exactly one of tokens | epochs"),
    "a budget of nothing": ({"spec.budget.tokens": "0"}, "spec.budget.tokens"),
    "a negative budget": ({"spec.budget.tokens": "-5"}, "spec.budget.tokens"),
    "a budget in percent": ({"spec.budget.tokens": "5%"}, "spec.budget.tokens"),
    "a budget in small letters": ({"spec.budget.tokens": "5m"}, "spec.budget.tokens"),
    "marks at nothing": ({"spec.evaluation.every": "0"}, "spec.evaluation.every"),
    "an Infinite at 105 percent": (
        {"spec.schedule": INFINITE, "spec.schedule.anneal.length": "44%"}, "warm-up 1% and the other segments",
    ),
    "a warm-up longer than the plan": ({"spec.schedule.warmup": "1M"}, "warm-up 1M and the other segments"),
    "a stable schedule beyond the plan": (
        {"spec.schedule": "{kind: WarmupStableDecay, peakLearningRate: 1, decayLength: 64K}"}, "longer than the plan",
    ),
    "a cooldown of Rewarm": ({"spec.schedule.cooldown": "{length: 5%}"}, "cooldown belongs to kind Infinite"),
    "an Infinite without cooldown": (
        {"spec.schedule": "{kind: Infinite, peakLearningRate: 1, constantLearningRate: 1}"}, "requires cooldown",
    ),
    "a final rate above the peak": ({"spec.schedule.finalLearningRate": "1"}, "final <= constant <= peak"),
    "a constant rate above the peak": (
        {"spec.schedule": INFINITE, "spec.schedule.constantLearningRate": "1"}, "constantLearningRate <= peak",
    ),
    "a default final rate above the constant": (
        {"spec.schedule": INFINITE, "spec.schedule.finalLearningRate": "null",
         "spec.schedule.constantLearningRate": "1e-6"}, "default: a tenth of the peak",
    ),
    "an exponential to nothing": (
        {"spec.schedule": INFINITE, "spec.schedule.finalLearningRate": "0"}, "needs finalLearningRate > 0",
    ),
    "a timescale of a cosine": ({"spec.schedule.timescale": "5"}, "timescale only with decay InverseSqrt"),
    "a kept optimizer of no run": ({"spec.schedule.optimizerState": "Keep"}, "Keep only with baseModel.run"),
    "a batch of broken rows": ({"spec.training.globalBatchTokens": "1000"}, "a multiple of training.sequenceLength"),
    "a batch that the processes cannot share": ({"spec.compute": "{nodes: 3}"}, "a multiple of the processes"),
    "a name twice in the corpus": (
        {"spec.corpus.sources[1]": "{name: notes, uri: s3://c/x.txt}"}, "Duplicate value",
    ),
    "a name twice across groups": (
        {"spec.replay": "{ratio: 0.5, sources: [{name: notes, uri: s3://c/x.txt}]}"}, "unique across corpus and replay",
    ),
    "weights on some": (
        {"spec.corpus.sources[1]": "{name: b, uri: s3://c/b.txt, weight: 2}"}, "all sources of a group or on none",
    ),
    "a set of no source": ({"spec.evaluation.sets": "[{name: wiki, role: New}]"}, "must name a source"),
    "a set without a role": ({"spec.evaluation.sets": "[{name: wiki, uri: s3://e/w.jsonl}]"}, "needs a role"),
    "a watch without a limit": ({"spec.gates": "{onForgetting: Stop}"}, "onForgetting watches maxForgetting"),
    "a raise of no replay": (
        {"spec.gates": "{onForgetting: RaiseReplay, maxForgetting: 0.1}"}, "needs a replay ratio above 0",
    ),
    "checkpoints on a laptop": ({"spec.checkpoints.uri": "./x"}, "s3:// | claim://NAME/path"),
    "an enum in the wrong case": ({"spec.training.precision": "bf16"}, "Unsupported value"),
    **{
        f"pod template: {name}": ({pod_templates.POD: template}, message)
        for name, (template, message, _, _) in pod_templates.REFUSED.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_these_are_refused_by_the_server_and_by_validation(api, run, name):
    changes, message = REFUSED[name]
    document = changed(run, changes)
    status, answer = create(api, document)
    assert status in (400, 422), answer
    assert message in answer["message"]
    assert not validate(document, local=False).valid


def resolved(api: Api, run: dict[str, Any]) -> str:
    """A created run whose digest is set; its path."""
    status, answer = create(api, run)
    assert status == 201, answer
    path = f"{RUNS}/{run['metadata']['name']}"
    status, answer = api.call("PATCH", path + "/status", {"status": {"snapshotDigest": "sha256:" + "0" * 64}})
    assert status == 200, answer
    return path


def test_before_the_digest_a_typo_can_be_mended(api, run):
    assert create(api, run)[0] == 201
    path = f"{RUNS}/{run['metadata']['name']}"
    assert api.call("PATCH", path, {"spec": {"training": {"seed": 5}}})[0] == 200


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"training": {"seed": 5}}, "spec.training"),
        ({"training": {"seed": None}}, "spec.training"),
        ({"replay": {"ratio": 0.0}}, "spec.replay"),
        ({"replay": {"ratio": None, "fromStudy": {"name": "mix"}}}, "spec.replay"),
        ({"cache": None}, "spec.cache"),
        ({"gates": {"maxForgetting": 0.5}}, "spec.gates"),
        ({"gates": {"minGain": 0.5}}, "spec.gates"),
        ({"gates": None}, "spec.gates"),
        ({"baseModel": {"scratch": {"config": {"hidden_size": 128}}}}, "spec.baseModel"),
        ({"budget": {"tokens": "65K"}}, "spec.budget"),
        ({"compute": {"nodes": 2}}, "spec.compute"),
        ({"schedule": {"peakLearningRate": 1.0}}, "spec.schedule"),
        ({"tracking": {"uri": "http://elsewhere"}}, "spec.tracking"),
        ({"credentials": [{"secret": "x"}]}, "spec.credentials"),
    ],
)
def test_after_the_digest_the_experiment_stands(api, run, patch, field):
    document = changed(
        run, {"spec.training.seed": "1", "spec.cache": "{uri: s3://c/}", "spec.gates": "{maxForgetting: 0.1}"}
    )
    path = resolved(api, document)
    status, answer = api.call("PATCH", path, {"spec": patch})
    assert status == 422, answer
    causes = [(cause["field"], cause["reason"]) for cause in answer["details"]["causes"]]
    assert (field, "FieldValueForbidden") in causes


def test_operation_may_change_at_any_time(api, run):
    path = resolved(api, changed(run, {"spec.gates": "{maxForgetting: 0.1, onForgetting: Warn}"}))
    patch = {
        "suspend": True,
        "retries": {"maxFailures": 9},
        "activeDeadlineSeconds": 60,
        "ttlSecondsAfterFinished": 60,
        "gates": {"onForgetting": "Stop"},
    }
    status, answer = api.call("PATCH", path, {"spec": patch})
    assert status == 200, answer


def test_compute_changes_while_suspended(api, run):
    path = resolved(api, run)
    both = {"spec": {"suspend": True, "compute": {"nodes": 2}}}
    status, answer = api.call("PATCH", path, both)
    assert status == 422
    assert "only while the run is suspended" in answer["message"]
    assert api.call("PATCH", path, {"spec": {"suspend": True}})[0] == 200
    assert api.call("PATCH", path, {"spec": {"compute": {"nodes": 2}}})[0] == 200
    assert api.call("PATCH", path, {"spec": {"suspend": False, "compute": {"nodes": 4}}})[0] == 200
    assert api.call("PATCH", path, {"spec": {"compute": {"nodes": 1}}})[0] == 422


@pytest.mark.parametrize(
    "status_patch", [{"snapshotDigest": None}, {"snapshotDigest": "sha256:" + "1" * 64}, None], ids=str
)
def test_the_digest_stays(api, run, status_patch):
    path = resolved(api, run)
    status, answer = api.call("PATCH", path + "/status", {"status": status_patch})
    assert status == 422, answer
    assert "stays once it is set" in answer["message"]


def test_a_status_as_in_the_contract_is_accepted(api, run):
    path = resolved(api, run)
    status = load_yaml((ROOT / "tests/unit/api/status.yaml").read_text())
    code, answer = api.call("PATCH", path + "/status?fieldValidation=Strict", {"status": status})
    assert code == 200, answer
    assert answer["status"] == {**status, "snapshotDigest": "sha256:" + "0" * 64}


def test_the_table_reads_conditions_by_type(api, run):
    path = resolved(api, run)
    conditions = [
        {"type": "GatesPassed", "status": "True", "reason": "", "message": "", "lastTransitionTime": ""},
        {"type": "Succeeded", "status": "Unknown", "reason": "", "message": "", "lastTransitionTime": ""},
    ]
    status = {"conditions": conditions, "summary": "Training", "gain": {"mean": 0.31}}
    assert api.call("PATCH", path + "/status", {"status": status})[0] == 200
    _, table = api.call("GET", path, accept="application/json;as=Table;g=meta.k8s.io;v=v1")
    cells = dict(zip([c["name"] for c in table["columnDefinitions"]], table["rows"][0]["cells"], strict=True))
    assert (cells["Status"], cells["Gain"], cells["Gates"], cells["Succeeded"]) == ("Training", 0.31, "True", "Unknown")
