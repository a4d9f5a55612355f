"""The verdict through the real command: gates, promotion, what is done about forgetting, report, log and metrics.

All runs continue one base, trained on general text; code with a high rate makes it forget.
"""

from __future__ import annotations

import hashlib
import json
import socket
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rewarm_world import World, functions, paragraphs, read_until, write_lines

HARD = {"peakLearningRate": 1.2e-2, "warmup": "10%"}
PROSE = {"name": "general", "uri": "data/prose.jsonl", "license": "PSF-2.0"}
# Documents of similar length and enough of them: effects lie outside their intervals.
EVALUATION = {"heldOut": {"minimumDocuments": 64, "maximumTokens": 10000}, "lookTokens": 100000}


@pytest.fixture(scope="session")
def general(world: World) -> str:
    """A base that knows general text; its name."""
    write_lines(world.root / "data" / "prose.jsonl", [text for text in paragraphs() if len(text) < 500][:400])
    write_lines(world.root / "data" / "source.jsonl", [text for text in functions() if len(text) < 700][:400])
    manifest = world.manifest(
        "general",
        corpus__sources=[PROSE],
        replay=None,
        schedule={"peakLearningRate": 1e-2, "warmup": "5%"},
        budget={"tokens": 40960},
        training__globalBatchTokens=512,
        evaluation={**EVALUATION, "every": "50%"},
        checkpoints__every="50%",
    )
    done = world.run(manifest, "general")
    assert done.code == 0, done.err
    report = world.report("general")
    assert (report["promotion"]["promoted"], report["promotion"]["reason"][:8]) == (False, "no gates")
    return "general"


def manifest_on(world: World, base: str, name: str, **changes: Any) -> Path:
    return world.manifest(
        name,
        **{
            "baseModel": {"run": {"path": base}},
            "corpus__sources": [{"name": "code", "uri": "data/source.jsonl", "license": "PSF-2.0"}],
            "replay": {"ratio": 0.25, "maxRepeats": 40, "sources": [PROSE]},
            "checkpoints__every": "50%",
            "evaluation": {**EVALUATION, "every": "10%"},
            **changes,
        },
    )


def run(world: World, base: str, name: str, **changes: Any) -> dict[str, Any]:
    done = world.run(manifest_on(world, base, name, **changes), name)
    assert done.code == 0, done.err
    return world.report(name)


def registry(world: World, name: str) -> Any:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{world.root / name / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


# --- a candidate that passes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def promoted(world: World, general: str) -> dict[str, Any]:
    """A gentle run with replay whose gates pass."""
    return run(
        world,
        general,
        "gentle",
        replay__ratio=0.5,
        schedule={"peakLearningRate": 1e-3},
        gates={"maxForgetting": 0.1, "minGain": 0.02},
        tracking={"registeredModel": "tiny-model", "promoteAlias": "chosen"},
    )


def test_gates_pass_and_the_version_takes_the_alias(world: World, general: str, promoted: dict[str, Any]) -> None:
    assert {gate["name"]: gate["result"] for gate in promoted["gates"]} == {"maxForgetting": "Pass", "minGain": "Pass"}
    assert promoted["promotion"]["promoted"] is True
    client = registry(world, "gentle")
    version = client.get_model_version_by_alias("tiny-model", "chosen")
    assert str(version.version) == promoted["tracking"]["model_version"] == "1"
    assert version.source == promoted["checkpoint"]["uri"]
    assert version.run_id == promoted["tracking"]["run_id"]
    tags = version.tags
    assert json.loads(tags["rewarm.dev/base"])["name"] == general
    pins = json.loads((world.root / "gentle" / "pins.json").read_text())
    assert json.loads(tags["rewarm.dev/corpora"]) == {n: pin["digest"] for n, pin in pins["sources"].items()}
    assert (tags["rewarm.dev/replay-ratio"], tags["rewarm.dev/schedule"]) == ("0.5", "Rewarm")
    assert json.loads(tags["rewarm.dev/verdict"]) == {n: s["verdict"] for n, s in promoted["sets"].items()}


def test_a_promoted_model_is_the_base_of_another_run(world: World, promoted: dict[str, Any]) -> None:
    uri = f"sqlite:///{world.root / 'gentle' / 'mlflow.db'}"
    report = run(
        world,
        "",
        "next",
        baseModel={"mlflow": {"model": "tiny-model", "alias": "chosen"}},
        tracking={"uri": uri, "registeredModel": "next-model"},
        budget={"tokens": 1024},
    )
    pinned = json.loads((world.root / "next" / "pins.json").read_text())["baseModel"]
    assert pinned["resolved"]["version"] == promoted["tracking"]["model_version"]
    for name in ("code", "general"):
        assert report["sets"][name]["baseline"] == promoted["sets"][name]["final"]


KEYS = {
    "version": None,
    "run": {"name", "uid", "snapshot_digest"},
    "outcome": None,
    "tokens": {"requested", "trained", "by_source", "epochs"},
    "replay": {"requested", "realized"},
    "sets": None,
    "forgetting": {"max", "mean"},
    "gain": {"mean"},
    "gates": None,
    "promotion": {"promoted", "reason"},
    "attempts": None,
    "checkpoint": {"uri", "step", "sha256"},
    "tracking": {"run_id", "model_version"},
    "throughput": {"tokens_per_second", "seconds"},
}
SET_KEYS = {
    "role",
    "documents",
    "tokens",
    "baseline",
    "final",
    "delta",
    "verdict",
    "stability_gap",
    "history",
}


def test_the_report_is_the_contracts(world: World, promoted: dict[str, Any]) -> None:
    added = {"message", "remarks", "warnings", "environment", "phases", "decisions", "stopped_early", "bad_lines"}
    assert promoted.keys() >= KEYS.keys() | added
    for name, keys in KEYS.items():
        if keys:
            assert promoted[name].keys() >= keys, "adding is allowed"
    assert (promoted["version"], promoted["outcome"]) == (1, "Succeeded")
    assert promoted["tokens"]["by_source"] == {"code": 5120, "general": 5120}
    assert promoted["replay"] == {"requested": 0.5, "realized": 0.5}
    assert "document intervals do not see seed noise" in promoted["remarks"][0], "it says which interval it shows"
    assert promoted["attempts"] == [
        {"number": 1, "cause": "Completed", "first_step": 1, "last_step": 40, "tokens_recomputed": 0}
    ]
    assert set(promoted["throughput"]["seconds"]) == {"prepare", "baseline", "train", "evaluate", "checkpoint"}
    assert promoted["throughput"]["tokens_per_second"] > 0
    for value in promoted["sets"].values():
        assert value.keys() >= SET_KEYS, "adding is allowed"
        assert value["delta"].keys() == {"mean", "low", "high", "confidence"}
        assert value["stability_gap"].keys() == {"depth", "low", "high", "peak_tokens", "recovered_tokens"}
        change = value["final"]["loss"] - value["baseline"]["loss"]
        assert value["delta"]["mean"] == pytest.approx(change, abs=1e-6)
        assert value["delta"]["low"] <= value["delta"]["mean"] <= value["delta"]["high"]
        first, *_, last = value["history"]
        assert (first["tokens"], first["loss"]) == (0, value["baseline"]["loss"])
        assert (last["tokens"], last["loss"]) == (10240, value["final"]["loss"])
        # Looks at 1, 2 and before the first mark, then every tenth.
        assert [look["tokens"] // 256 for look in value["history"]] == [0, 1, 2, *range(4, 41, 4)]
    deltas = {name: value["delta"]["mean"] for name, value in promoted["sets"].items()}
    assert promoted["forgetting"] == {"max": deltas["general"], "mean": deltas["general"]}
    assert promoted["gain"]["mean"] == pytest.approx(-deltas["code"])
    assert promoted["gain"]["mean"] > 0
    manifest = Path(promoted["checkpoint"]["uri"]) / "manifest.json"
    assert promoted["checkpoint"]["sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_the_work_folder_holds_what_the_contract_names(world: World, promoted: dict[str, Any]) -> None:
    folder = world.root / "gentle"
    names = ("snapshot.json", "pins.json", "mlflow.db", "report.json", "report.html", "model-card.md", "log.jsonl")
    assert all((folder / name).stat().st_size > 0 for name in names)
    assert "<svg" in (folder / "report.html").read_text()
    assert "tiny-model" in (folder / "model-card.md").read_text() or "gentle" in (folder / "model-card.md").read_text()
    log = world.log("gentle")
    assert all("time" in line for line in log)
    steps = [line for line in log if "event" not in line]
    assert [line["step"] for line in steps] == list(range(1, 41))
    wanted = {"step", "tokens", "loss", "learning_rate", "rows", "losses", "gradient_norm", "tokens_per_second"}
    assert all(wanted | {"replay_share"} <= line.keys() for line in steps)
    events = [line for line in log if "event" in line]
    assert {line["event"] for line in events} >= {
        "attempt started",
        "evaluation",
        "checkpoint committed",
        "attempt ended",
    }
    started = next(line for line in events if line["event"] == "attempt started")
    assert (started["number"], started["processes"]) == (1, 1)
    assert started["pid"] > 0
    assert [line["tokens"] for line in events if line["event"] == "evaluation"] == [
        look["tokens"] for look in promoted["sets"]["code"]["history"]
    ]


def test_mlflow_has_every_metric_by_tokens(world: World, promoted: dict[str, Any]) -> None:
    client = registry(world, "gentle")
    mine = promoted["tracking"]["run_id"]
    deltas = client.get_metric_history(mine, "eval/general/delta")
    assert [point.step for point in deltas] == [
        look["tokens"] for look in promoted["sets"]["general"]["history"] if look["tokens"]
    ]
    assert deltas[-1].value == promoted["sets"]["general"]["delta"]["mean"]
    run_ = client.get_run(mine)
    names = {f"train/{name}" for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second", "replay_share")}
    names |= {"train/loss/code", "train/loss/general", "forgetting/max", "forgetting/mean", "gain/mean"}
    names |= {f"eval/{name}/{what}" for name in ("code", "general") for what in ("loss", "delta", "bits_per_byte")}
    assert names <= run_.data.metrics.keys()
    assert run_.info.status == "FINISHED"
    assert len(client.get_metric_history(mine, "train/loss")) == 40


# --- a candidate that forgets -----------------------------------------------------------------------------------------


def test_forgetting_is_measured_without_replay_and_fails_the_gates(world: World, general: str) -> None:
    report = run(
        world,
        general,
        "forgets",
        replay__ratio=0.0,
        schedule=HARD,
        gates={"maxForgetting": 0.02, "minGain": 0.01},
    )
    assert report["tokens"]["by_source"] == {"code": 10240, "general": 0}
    assert report["tokens"]["epochs"]["general"] == 0
    assert report["replay"] == {"requested": 0.0, "realized": 0.0}
    general_set = report["sets"]["general"]
    assert general_set["role"] == "Retained"
    assert general_set["verdict"] == "Lose"
    assert report["forgetting"]["max"] > 0.1
    assert {gate["name"]: gate["result"] for gate in report["gates"]} == {"maxForgetting": "Fail", "minGain": "Pass"}
    assert report["promotion"]["promoted"] is False
    assert "maxForgetting Fail" in report["promotion"]["reason"]
    warned = [decision for decision in report["decisions"] if decision["what"] == "ForgettingExceeded"]
    assert warned, "onForgetting is Warn by default"
    assert min(decision["tokens"] for decision in warned) >= 1024, "after the stability gap"
    gap = general_set["stability_gap"]
    assert gap["depth"] >= general_set["delta"]["mean"] > 0
    assert gap["low"] < gap["depth"] < gap["high"]
    client = registry(world, "forgets")
    (version,) = client.search_model_versions("name = 'forgets'")
    assert str(version.version) == report["tracking"]["model_version"] == "1", "registered all the same"
    assert not client.get_registered_model("forgets").aliases, "but nothing points at it"


def test_raise_replay_begins_a_phase_and_the_report_adds_up(world: World, general: str) -> None:
    report = run(
        world,
        general,
        "raises",
        replay__ratio=0.05,
        schedule=HARD,
        gates={"maxForgetting": 0.001, "onForgetting": "RaiseReplay"},
    )
    raises = [decision for decision in report["decisions"] if decision["what"] == "RaiseReplay"]
    assert raises
    phases = report["phases"]
    assert [phase["reason"] for phase in phases] == ["start"] + ["forgetting"] * len(raises)
    assert [phase["first_step"] for phase in phases[1:]] == [decision["step"] for decision in raises]
    ratios = [phase["ratio"] for phase in phases]
    assert ratios[:2] == [0.05, 0.1]
    assert all(later == min(2 * earlier, 0.5) for earlier, later in pairwise(ratios))
    ends = [phase["first_step"] for phase in phases[1:]] + [40]
    replayed = sum(
        int((end - phase["first_step"]) * 8 * phase["ratio"] + 0.5) for phase, end in zip(phases, ends, strict=True)
    )
    assert report["tokens"]["by_source"] == {"code": (320 - replayed) * 32, "general": replayed * 32}
    assert report["replay"] == {"requested": 0.05, "realized": pytest.approx(replayed / 320)}
    starts = {phase["first_step"] for phase in phases[1:]}
    looked = {look["tokens"] // 256 for look in report["sets"]["code"]["history"]}
    assert {start + 1 for start in starts if start < 40} <= looked, "dense looks after every start of a phase"


def test_stop_ends_training_and_judges_what_there_is(world: World, general: str) -> None:
    report = run(
        world,
        general,
        "stops",
        replay__ratio=0.0,
        schedule=HARD,
        gates={"maxForgetting": 0.001, "onForgetting": "Stop"},
    )
    assert report["outcome"] == "Succeeded"
    (decision,) = report["decisions"]
    assert decision["what"] == "Stop"
    step = decision["step"]
    assert 4 <= step < 40
    assert report["tokens"] == report["tokens"] | {"requested": 10240, "trained": step * 256}
    assert report["stopped_early"] == decision["why"]
    assert report["checkpoint"]["step"] == step
    assert [gate["result"] for gate in report["gates"]] == ["Fail"]
    again = world.run(world.root / "stops.yaml", "stops")
    assert again.code == 0
    assert world.report("stops") == report, "a stopped run is a finished run"


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_are_scraped_during_a_run(world: World, general: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    manifest = manifest_on(world, general, "scraped-verdict", budget={"tokens": 102400})
    process = world.start("run", manifest, "--workdir", world.root / "scraped-verdict", "--metrics-port", str(port))
    read_until(process, lambda line: line.startswith("step 2/"))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    process.kill()
    process.communicate()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert float(values["rewarm_training_tokens_total"]) >= 2 * 256
    assert float(values["rewarm_training_tokens_total"]) % 256 == 0
    assert float(values["rewarm_learning_rate"]) > 0
    assert float(values["rewarm_gradient_norm"]) > 0
    assert 0 <= float(values["rewarm_replay_share"]) <= 0.5
    assert float(values['rewarm_eval_loss{role="Retained",set="general"}']) > 0
    assert 'rewarm_forgetting{set="general"}' in values
    assert float(values["rewarm_checkpoint_age_seconds"]) >= 0
