"""The fault campaigns in short (`make campaign` runs the long ones): kills, a bad S3 server, a full disk, SIGTERM."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from rewarm_world import Finished, World

from campaigns import kill, preemption, storage
from campaigns.s3_proxy import Fault, S3Proxy
from campaigns.tally import OF_OPERATORS, Tally, kinds, section, summary
from campaigns.world import Twin, undisturbed
from rewarm_trainer.checkpoint import Checkpoints, folder_name
from rewarm_trainer.patience import VARIABLE
from rewarm_trainer.storage import LocalStorage, S3Storage


@pytest.fixture
def source(finished: tuple[Path, Finished]) -> Path:
    """The last checkpoint of a real run."""
    return finished[0] / "checkpoints" / folder_name(40)


@pytest.fixture(scope="module")
def proxy() -> Iterator[S3Proxy]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    with S3Proxy(f"http://{host}:{port}") as proxy, storage.variables(AWS_ENDPOINT_URL=proxy.url, **access):
        boto3.client("s3", region_name="us-east-1", endpoint_url=proxy.url).create_bucket(Bucket="faults")
        yield proxy
    server.stop()


@pytest.mark.slow
def test_killed_at_points_of_the_commit_protocol_and_at_any_moment(world: World) -> None:
    manifest = world.manifest("short-kill", **kill.MANIFEST)
    twin = undisturbed(world, manifest, "short-twin")
    tally, moment = Tally("kill"), random.Random(0)
    points = ("commit.file:12", "delete.marker:7", "write.beside:40", "commit.marker:2")
    plan = [*(kill.Kill(point) for point in points), kill.Kill(share=0.6)]
    kill.Killing(world, manifest, twin, 1, tally, 4.0, moment, itertools.count()).run(plan)
    assert tally.is_clean, tally.problems
    assert tally.injected >= len(points)


def test_an_s3_server_that_stumbles_costs_nothing(proxy: S3Proxy, tmp_path: Path, source: Path) -> None:
    tally = Tally("storage")
    place = storage.Place(S3Storage("s3://faults/commit/"), tmp_path, source)
    storage.every_request(place, proxy, tally, tuple(kind for kind in storage.KINDS if kind != "timeout"), stride=15)
    storage.expired(place, proxy, tally, 1)
    assert tally.is_clean, tally.problems
    assert tally.injected > 15


def test_two_writers_at_once_commit_one_whole_checkpoint(proxy: S3Proxy, tmp_path: Path, source: Path) -> None:
    proxy.clear()
    tally = Tally("races")
    storage.races(S3Storage("s3://faults/race/"), tmp_path, source, tally, 2)
    storage.races(LocalStorage(tmp_path / "checkpoints"), tmp_path / "local", source, tally, 2)
    assert tally.is_clean, tally.problems


def test_a_store_that_never_answers_is_given_up_at_the_deadline(proxy: S3Proxy, tmp_path: Path, source: Path) -> None:
    place = storage.Place(S3Storage("s3://faults/away/"), tmp_path, source)
    proxy.clear()
    proxy.add(Fault("503 SlowDown", times=None))
    with storage.variables(**{VARIABLE: "0.1"}):
        assert "the store answered SlowDown; try again later" in place.commit()
    proxy.clear()
    assert place.newest() == (storage.STEP, 0)


def test_uploads_that_never_ended_are_shown_and_given_back(proxy: S3Proxy, tmp_path: Path) -> None:
    proxy.clear()
    store = S3Storage("s3://faults/parts/")
    key = f"{folder_name(4)}/model.safetensors"
    store.client.create_multipart_upload(Bucket="faults", Key=f"parts/{key}")
    (listed,) = Checkpoints(store, tmp_path).audit(verify=True)
    assert (listed.step, listed.committed) == (4, False)
    assert listed.reason == "no COMMITTED marker; 1 writes begun and never ended"
    (write,) = store.unfinished("step-")
    assert write.key == key
    for _ in range(2):
        store.abandon(write)
    assert store.unfinished("step-") == []


def test_a_full_disk_at_every_write_costs_nothing(tmp_path: Path, source: Path) -> None:
    tally = Tally("disk")
    storage.full_disk(tmp_path, source, tally, 4)
    storage.rot(storage.Place(LocalStorage(tmp_path / "checkpoints"), tmp_path / "state", source), tally)
    assert tally.is_clean, tally.problems


@pytest.mark.parametrize("name", ["before the first step", "while files are uploaded"])
def test_asked_to_stop_in_a_bad_moment(world: World, finished: tuple[Path, Finished], name: str) -> None:
    tally = Tally("preemption")
    (case,) = (case for case in preemption.SITUATIONS if case.name == name)
    number = preemption.SITUATIONS.index(case)
    preemption.one(world, world.manifest("short-stop"), Twin(finished[0], 40), case, tally, number)
    assert tally.is_clean, tally.problems


def test_a_tally_that_is_not_clean_says_so() -> None:
    tally = Tally("a", by_kind={"x": 1}, injected=1, survived=1)
    assert tally.is_clean
    tally.struck("y", ["weights differ"], 2)
    assert not tally.is_clean
    assert summary([tally]).splitlines()[-1] == "| a | 3 | 1 | 0 | 0 | 0 |"
    operators = Tally("b", columns=OF_OPERATORS, jobs_doubled=2)
    assert not operators.is_clean
    assert summary([tally, operators]).splitlines()[-1] == "| b | 0 | 0 | – | – | – | 0 | 2 |"
    assert kinds(tally.by_kind) == "2 × y, 1 × x"
    assert "**Not as it must be:** y: weights differ" in section(tally, "make campaign", "2 cores", "today")
