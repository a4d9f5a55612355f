"""Pods without a cluster: prepare, two-node training, ends of every kind, and what survives the pods."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pods import PodRun
from rewarm_world import World

from rewarm_api.pins import Pins
from rewarm_trainer.pod_settings import experiment_digest

STEPS = 40


def losses(run: PodRun) -> dict[int, tuple[float, dict[str, int]]]:
    """Loss and rows of every update, the last record of each."""
    return {line["step"]: (line["loss"], line["rows"]) for line in run.stored_log() if "event" not in line}


def weights(run: PodRun) -> bytes:
    return (run.stored / f"step-{STEPS:08d}" / "model.safetensors").read_bytes()


@pytest.fixture(scope="session")
def whole(world: World) -> PodRun:
    """One undisturbed run of one pod; read it, never change it."""
    run = PodRun.make(world, "whole")
    assert run.prepare().end() == 0
    (pod,) = run.attempt()
    assert pod.end() == 0, pod.log
    return run


def test_preparation_pins_once_and_says_so(world: World) -> None:
    run = PodRun.make(world, "prepared")
    first = run.prepare()
    assert first.end() == 0, first.log
    pinned = run.root / "claims" / "cache" / "shared" / "runs" / run.snapshot.uid / "pins.json"
    pins = Pins.model_validate_json(pinned.read_text())
    said = first.termination.pins
    assert said is not None
    assert said.digest == experiment_digest(run.snapshot, pins)
    assert (said.tokens, said.steps) == (pins.plan.tokens, pins.plan.steps)
    assert {name: counts.rows for name, counts in said.sources.items()} == {n: p.rows for n, p in pins.sources.items()}
    before = pinned.read_bytes()
    again = run.prepare()
    assert again.end() == 0, again.log
    assert "tokenise" not in again.log, "found again, not made again"
    assert pinned.read_bytes() == before == (run.stored / "run" / "pins.json").read_bytes()


def test_preparation_refuses_changed_text_a_missing_claim_and_another_experiment(world: World) -> None:
    run = PodRun.make(world, "refused")
    first = run.prepare()
    assert first.end() == 0, first.log
    text = run.root / "claims" / "data" / "code.jsonl"
    before = text.read_text()
    text.write_text(before + json.dumps({"text": "one more document " * 20}) + "\n")
    changed = run.prepare()
    assert changed.end() == 65
    assert changed.termination.outcome == "BadData"
    assert "code" in changed.termination.message
    text.write_text(before)
    shutil.rmtree(run.root / "claims" / "data")
    missing = run.prepare()
    assert missing.end() == 66
    assert "claim 'data' is not mounted" in missing.termination.message
    shutil.copytree(world.root / "data", run.root / "claims" / "data")
    other = PodRun.make(world, "refused", uid="another", training__seed=4, checkpoints__uri="claim://runs/team/refused")
    different = other.prepare()
    assert different.end() == 64
    assert "spec.training.seed: found 4, expected 3" in different.termination.message


def test_a_run_made_again_takes_up_its_own_folder(world: World, whole: PodRun) -> None:
    again = PodRun.make(world, "whole", uid="a-second-life")
    assert again.prepare().end() == 0
    (pod,) = again.attempt()
    assert pod.end() == 0
    assert "this run is finished" in pod.log
    report = pod.termination.report
    assert report is not None
    assert report.progress is not None
    assert (report.outcome, report.progress.step) == ("Succeeded", STEPS)


def test_a_cluster_rebuilt_from_nothing_goes_on_where_the_old_one_was(world: World, whole: PodRun) -> None:
    """Only the checkpoints' place is left: no cache, no pods, another uid, attempts counted from 1 again."""
    before = PodRun.make(world, "rebuilt")
    assert before.prepare().end() == 0
    (pod,) = before.attempt()
    pod.until("checkpoint committed after step 12")
    pod.kill()
    shutil.rmtree(before.root / "claims" / "cache")
    shutil.rmtree(before.root / "pods")
    after = PodRun.make(world, "rebuilt", uid="uid-on-the-new-cluster")
    prepared = after.prepare()
    assert prepared.end() == 0, prepared.log
    (pod,) = after.attempt()
    assert pod.end() == 0, pod.log
    report = pod.termination.report
    assert report is not None
    assert report.attempt is not None
    assert (report.attempt.number, (report.attempt.first_step or 0) > 12) == (1, True)
    assert weights(after) == weights(whole)
    assert [line["step"] for line in after.stored_log() if "event" not in line][-1] == STEPS


def test_two_nodes_train_what_one_trains(world: World, whole: PodRun) -> None:
    run = PodRun.make(world, "pair")
    assert run.prepare().end() == 0
    first, second = run.attempt(nodes=2)
    assert first.end() == 0, first.log
    assert second.end() == 0, second.log
    one, two = losses(whole), losses(run)
    assert {step: rows for step, (_, rows) in two.items()} == {step: rows for step, (_, rows) in one.items()}
    assert all(abs(two[step][0] - one[step][0]) < 1e-3 for step in one)
    report = first.termination.report
    assert report is not None
    assert report.checkpoint is not None
    assert report.checkpoint.uri == f"claim://runs/team/pair/step-{STEPS:08d}"
    assert {each.set: each.verdict for each in report.evaluation} == {
        name: line["verdict"] for name, line in run.report()["sets"].items()
    }
    assert first.termination.tags["rewarm.dev/run-uid"] == run.snapshot.uid
    assert (second.termination.outcome, second.termination.exit_code, second.termination.report) == (
        "Succeeded",
        0,
        None,
    )
    started = [line for line in run.stored_log() if line.get("event") == "attempt started"]
    assert [(line["number"], line["processes"]) for line in started] == [(1, 2)]


def test_killed_pods_come_back_from_the_store_bit_for_bit(world: World, whole: PodRun) -> None:
    # Nobody answers there: points wait.
    run = PodRun.make(world, "killed", tracking={"uri": "http://127.0.0.1:9"})
    assert run.prepare().end() == 0
    points: dict[str, Any] = {}
    for text in ("checkpoint committed after step 8", "step 23/"):
        (pod,) = run.attempt()
        pod.until(text)
        pod.kill()
        spool = run.stored / "run" / "state" / "spool" / "points.jsonl"
        points = dict.fromkeys(spool.read_text().splitlines(), True)
        assert points
    (pod,) = run.attempt()
    assert pod.end() == 0, pod.log
    assert losses(run) == losses(whole)
    assert weights(run) == weights(whole)
    assert run.report()["sets"] == whole.report()["sets"]
    attempts = run.report()["attempts"]
    assert [attempt["number"] for attempt in attempts] == [1, 2, 3]
    assert [attempt["cause"] for attempt in attempts] == ["Unknown", "Unknown", "Completed"]
    assert set(points) <= set(spool.read_text().splitlines()), "points that waited for MLflow survive their pod"


def test_a_stop_commits_on_all_nodes_and_exits_143(world: World, whole: PodRun) -> None:
    run = PodRun.make(world, "stopped")
    assert run.prepare().end() == 0
    first, second = run.attempt(nodes=2)
    first.until("step 6/")
    # Only one of them is evicted; the others hear of it in the next step.
    second.process.send_signal(signal.SIGTERM)
    assert (second.end(), first.end()) == (143, 143), first.log + second.log
    assert first.termination.outcome == second.termination.outcome == "Preempted"
    report = first.termination.report
    assert report is not None
    assert report.checkpoint is not None
    stopped_at = report.checkpoint.step
    assert 6 <= stopped_at < STEPS
    assert (run.stored / f"step-{stopped_at:08d}" / "COMMITTED").exists()
    (pod,) = run.attempt()
    assert pod.end() == 0, pod.log
    attempts = run.report()["attempts"]
    assert [(each["cause"], each["first_step"], each["last_step"]) for each in attempts] == [
        ("Preempted", 1, stopped_at),
        ("Completed", stopped_at + 1, STEPS),
    ]
    assert {step: rows for step, (_, rows) in losses(run).items()} == {
        step: rows for step, (_, rows) in losses(whole).items()
    }


@pytest.mark.parametrize("moment", ["waiting for", "starting 1 training", "scoring"])
def test_a_stop_before_training_exits_143_and_leaves_nothing(world: World, moment: str) -> None:
    run = PodRun.make(world, "early-" + moment.split()[0])
    assert run.prepare().end() == 0
    unknown = {"REWARM_MASTER_ADDRESS": "nobody.invalid"} if moment == "waiting for" else {}
    (pod,) = run.attempt(**unknown)
    pod.until(moment)
    processes = pod.descendants()
    pod.process.send_signal(signal.SIGTERM)
    assert pod.end(60) == 143, pod.log
    assert (pod.termination.outcome, pod.termination.exit_code) == ("Preempted", 143)
    assert not [number for number in processes if Path(f"/proc/{number}").exists()]


def test_the_first_cause_is_told_and_its_victims_stay_behind(world: World) -> None:
    """A worker on node 1 is killed: its pod says 137, and the other one ends later with 70."""
    run = PodRun.make(world, "victims")
    assert run.prepare().end() == 0
    first, second = run.attempt(nodes=2)
    first.until("step 3/")
    worker = max(second.descendants())
    os.kill(worker, signal.SIGKILL)
    assert second.end() == 137, second.log
    assert first.process.poll() is None, "the cause has to be the first container to end"
    assert first.end() == 70, first.log
    assert "SIGKILL" in second.termination.message
    assert "went away" in first.termination.message


def test_an_own_failure_gives_its_own_code(world: World) -> None:
    run = PodRun.make(world, "broken", checkpoints__keep=1)
    assert run.prepare().end() == 0
    (pod,) = run.attempt()
    pod.until("checkpoint committed after step 12")
    pod.kill()
    for folder in run.stored.glob("step-*"):
        (folder / "model.safetensors").write_bytes(b"torn")
    first, second = run.attempt(nodes=2)
    codes = {first.end(), second.end()}
    assert codes == {65}, first.log + second.log
    assert first.termination.outcome == "BadData"
    assert "none of the" in first.termination.message


def test_metrics_of_both_nodes(world: World) -> None:
    import urllib.request

    from pods import free_port

    run = PodRun.make(world, "metered", budget__tokens="60K")
    assert run.prepare().end() == 0
    ports = [free_port(), free_port()]
    run.attempts += 1
    master = str(free_port())
    pods = [
        run.pod(
            "train",
            f"metered-{index}",
            REWARM_ATTEMPT="1",
            REWARM_NODES="2",
            JOB_COMPLETION_INDEX=str(index),
            REWARM_MASTER_PORT=master,
            REWARM_METRICS_PORT=str(port),
        )
        for index, port in enumerate(ports)
    ]
    pods[0].until("step 3/")
    texts = [urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode() for port in ports]
    assert "rewarm_training_tokens_total" in texts[0]
    assert "rewarm_training_tokens_total" not in texts[1]
    for text in texts:
        assert "rewarm_process_tokens_per_second" in text
        assert "rewarm_process_resident_memory_bytes" in text
    for pod in pods:
        pod.process.send_signal(signal.SIGTERM)
    assert [pod.end() for pod in pods] == [143, 143]


def test_a_run_goes_on_from_another_by_name(world: World, whole: PodRun) -> None:
    """Continue run `whole` and replay what it saw: both are found beside this run, by name alone."""
    run = PodRun.make(
        world,
        "next",
        baseModel={"run": {"name": "whole", "checkpoint": "Final"}},
        replay={"ratio": 0.25, "fromRun": {"name": "whole"}},
        budget__tokens=2560,
    )
    shutil.rmtree(run.root / "claims" / "cache")
    shutil.copytree(whole.root / "claims" / "runs" / "team" / "whole", run.stored.parent / "whole")
    shutil.copytree(whole.root / "claims" / "cache", run.root / "claims" / "cache")
    prepared = run.prepare()
    assert prepared.end() == 0, prepared.log
    first, second = run.attempt(nodes=2)
    assert (first.end(), second.end()) == (0, 0), first.log
    pins = Pins.model_validate_json((run.stored / "run" / "pins.json").read_text())
    assert pins.base_model["resolved"] == {"name": "whole", "checkpoint": STEPS}
    assert pins.base_model["uid"] == json.loads((whole.stored / "run" / "snapshot.json").read_text())["uid"]
    assert set(pins.sources) == {"code", "whole-code", "general"}
    assert "general" in pins.sets, sorted(pins.sets)
    inherited = pins.sets["general"].inherited
    assert inherited
    assert (inherited.run, inherited.name) == ("whole", "general")
    for pin in pins.sets.values():
        assert (run.stored / "run" / "state" / "sets" / pin.prepared.removeprefix("sha256:") / "tokens.bin").exists()
    report = json.loads((run.stored / "run" / "report.json").read_text())
    assert report["sets"]["general"]["role"] == "Retained"
    assert [stage["name"] for stage in report["chain"]["stages"]] == ["whole", "next"]
    assert {name: each["stage"] for name, each in report["chain"]["sets"].items()} == {"code": 1, "general": 1}
    assert report["chain"]["backwardTransfer"] is not None
    alone = PodRun.make(world, "alone", baseModel={"run": {"name": "nobody"}})
    missing = alone.prepare()
    assert missing.end() == 66
    assert "nothing of run nobody lies at claim://runs/team/nobody" in missing.termination.message


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """An S3 server with a bucket `runs`; the environment that reaches it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    environment = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket="runs")
    yield environment
    server.stop()


def test_the_same_on_a_bucket(world: World, whole: PodRun, bucket: dict[str, str]) -> None:
    """Checkpoints, the run's own folder and (beside them, for want of another place) the cache in S3."""
    run = PodRun.make(world, "bucketed", checkpoints__uri="s3://runs/team/bucketed/", cache=None)
    prepared = run.prepare(**bucket)
    assert prepared.end() == 0, prepared.log
    said = prepared.termination.pins
    assert said is not None
    assert said.uri == f"s3://runs/team/bucketed/cache/runs/{run.snapshot.uid}/pins.json"
    (pod,) = run.attempt(processes=2, **bucket)
    pod.until("checkpoint committed after step 12")
    pod.kill()
    (pod,) = run.attempt(processes=2, **bucket)
    assert pod.end() == 0, pod.log
    report = pod.termination.report
    assert report is not None
    assert report.checkpoint is not None
    assert report.checkpoint.uri == f"s3://runs/team/bucketed/step-{STEPS:08d}"
    assert report.attempt is not None
    assert (report.attempt.number, (report.attempt.first_step or 0) > 12) == (2, True)
    log = [json.loads(line) for line in (pod.home / "work" / "log.jsonl").read_text().splitlines()]
    rows = {line["step"]: line["rows"] for line in log if "event" not in line}
    assert rows == {step: rows for step, (_, rows) in losses(whole).items()}
