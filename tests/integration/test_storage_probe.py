"""What `helm test` asks a bucket, on a real S3 server (moto over HTTP), and on one that passes over conditions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from rewarm_api.errors import DependencyError
from rewarm_trainer.storage import LocalStorage, S3Storage
from rewarm_trainer.storage_probe import probe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    given = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=server, region_name="us-east-1").create_bucket(Bucket="probed-bucket")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("api", "trainer"))}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rewarm_trainer.storage_probe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_good_bucket_passes_and_is_left_as_it_was(environment: dict[str, str]) -> None:
    done = run(environment, "s3://probed-bucket/some/prefix/")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok      s3://probed-bucket/some/prefix/")
    assert S3Storage("s3://probed-bucket/").list("") == []


def test_a_store_that_passes_over_conditions_is_refused(environment: dict[str, str]) -> None:
    store = S3Storage("s3://probed-bucket/deaf/")

    def drop_condition(request, **_: object) -> None:
        if "If-None-Match" in request.headers:
            del request.headers["If-None-Match"]

    store.client.meta.events.register("before-sign.s3.PutObject", drop_condition)
    try:
        with pytest.raises(DependencyError, match="If-None-Match was taken, expected 412"):
            probe(store)
    finally:
        store.client.meta.events.unregister("before-sign.s3.PutObject", drop_condition)
    assert S3Storage("s3://probed-bucket/").list("") == []


def test_a_bucket_that_is_not_there_is_named(environment: dict[str, str]) -> None:
    done = run(environment, "s3://nowhere/runs/")
    assert done.returncode in (66, 75)
    assert done.stderr.startswith("FAILED  ")
    assert "nowhere" in done.stderr


def test_a_folder_passes_too(tmp_path: Path) -> None:
    probe(LocalStorage(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_it_wants_one_address(environment: dict[str, str]) -> None:
    assert run(environment).returncode == 64
