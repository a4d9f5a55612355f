"""The Python client with runs on this machine: the same words as on a cluster, real processes, real training."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from rewarm_world import World

from rewarm_api.errors import ManifestError, MissingInputError
from rewarm_cli.client import Local, RewarmClient, WaitTimeoutError

pytestmark = pytest.mark.slow


@pytest.fixture
def client(world: World, tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RewarmClient]:
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    client = RewarmClient(Local(tmp_path / "runs"))
    yield client
    for run in client.list():
        client.suspend(run.name)
        for _ in client.logs(run.name, follow=True):
            pass
        client.delete(run.name)


def test_submit_wait_and_read_what_it_did(client, world):
    run = client.submit(world.manifest("whole-local"), changes=["spec.gates.maxForgetting=9.0"])
    assert (run.name, run.action, run.finished) == ("whole-local", "created", False)
    seen: list[str] = []
    followed = [line.text for line in client.logs(run.name, follow=True)]
    done = client.wait(run.name, timeout=200, on_change=lambda now: seen.append(now.summary))
    assert done.succeeded, followed[-20:]
    assert done.status.progress.percent == 100
    assert {item.set: item.role for item in done.status.evaluation} == {"code": "New", "general": "Retained"}
    assert [gate.result for gate in done.status.gates] == ["Pass"]
    assert done.truth("GatesPassed") == "True"
    assert done.status.replay.realized == 0.25
    assert [(item.number, item.cause) for item in done.status.attempts] == [(1, "Completed")]
    assert done.status.tracking.model_version == "1"
    assert "CheckpointCommitted" in {event.reason for event in client.events(run.name)}
    assert any(line.prefix == "a1/0" for line in client.logs(run.name, tail=3))
    assert len(list(client.logs(run.name, tail=3))) == 3
    assert [item.name for item in client.list()] == ["whole-local"]


def test_suspend_commits_and_resume_goes_on_to_the_end(client, world):
    run = client.submit(world.manifest("paused", budget__tokens=40960))
    for now in client.watch(run.name, timeout=200):
        if now.status.checkpoint is not None:
            break
    client.suspend(run.name)
    paused = client.wait(run.name, condition="Suspended", timeout=100)
    assert (paused.truth("Suspended"), paused.truth("Succeeded"), paused.summary) == ("True", "Unknown", "Suspended")
    step = paused.status.progress.step
    assert 0 < step < 160
    client.resume(run.name)
    done = client.wait(run.name, timeout=200)
    assert done.succeeded
    assert [item.number for item in done.status.attempts] == [1, 2]
    assert {line.prefix for line in client.logs(run.name)} == {"a1/0", "a2/0"}


def test_a_run_that_cannot_be_ends_failed_with_its_cause(client, world):
    run = client.submit(world.manifest("without-text", corpus__sources=[{"name": "code", "uri": "none.jsonl"}]))
    done = client.wait(run.name, timeout=100)
    assert (done.finished, done.succeeded, done.summary) == (True, False, "Failed")
    assert done.condition("Succeeded").reason == "MissingInput"
    assert "none.jsonl" in done.condition("Succeeded").message


def test_names_manifests_and_promotions_that_cannot_be(client, world):
    with pytest.raises(ManifestError, match=r"spec\.replay\.ratio"):
        client.submit(world.manifest("bad", replay__ratio=1.5))
    with pytest.raises(MissingInputError, match="no such run"):
        client.get("nobody")
    run = client.submit(world.manifest("waiting"))
    with pytest.raises(WaitTimeoutError):
        client.wait(run.name, timeout=0.1)
    with pytest.raises(ManifestError, match="has not ended"):
        client.promote(run.name)
    assert client.submit(world.manifest("waiting")).action == "unchanged"
    with pytest.raises(ManifestError, match="which is running"):
        client.submit(world.manifest("waiting", budget__tokens=20480))
    client.delete(run.name)
    assert client.list() == []


def test_promote_moves_the_alias(client, world):
    run = client.submit(world.manifest("better", tracking__promoteAlias="champion", budget__tokens=2560))
    assert client.wait(run.name, timeout=200).succeeded
    promoted = client.promote(run.name)
    assert promoted.status.promotion.promoted
    assert "champion is version 1" in promoted.status.promotion.reason
    from mlflow import MlflowClient

    uri = f"sqlite:///{os.path.abspath(client.backend.folder / run.name / 'mlflow.db')}"
    assert MlflowClient(uri, uri).get_model_version_by_alias("better", "champion").version == 1
