"""Secrets stay where they are: a run is given canaries for credentials, then everything that it wrote is searched."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from rewarm_world import Finished, World

from rewarm_api.errors import DependencyError
from rewarm_trainer.storage import S3Storage

CANARY = "canary-3f9c1d"


@dataclass
class Store:
    """A real S3 server, and the address that reaches it."""

    client: Any
    url: str

    def contents(self) -> Iterator[tuple[str, bytes]]:
        for bucket in self.client.list_buckets()["Buckets"]:
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"])
            for item in (item for page in pages for item in page.get("Contents", ())):
                body = self.client.get_object(Bucket=bucket["Name"], Key=item["Key"])["Body"].read()
                yield f"s3://{bucket['Name']}/{item['Key']}", body


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "other"}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="runs")
    yield Store(client, url)
    server.stop()


def leaks(done: Finished, *folders: Path) -> list[str]:
    """Where the canary is, of all that a command left behind."""
    found = [name for name, text in (("stdout", done.out), ("stderr", done.err)) if CANARY in text]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files or not folders
    return found + [str(path) for path in files if CANARY.encode() in path.read_bytes()]


def test_credentials_of_a_run_are_in_nothing_that_it_writes(world: World, store: Store, tmp_path: Path) -> None:
    """Buckets by a mounted file, trackers and the hub by variables; what MLflow is told lies in the work folder too."""
    (tmp_path / "mounted").write_text(f"[default]\naws_access_key_id = {CANARY}\naws_secret_access_key = {CANARY}\n")
    names = (
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "HF_TOKEN",
        "WANDB_API_KEY",
    )
    secrets = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "mounted"), **dict.fromkeys(names, CANARY)}
    cache = tmp_path / "cache"
    environment = {**world.environment, **secrets, "AWS_ENDPOINT_URL": store.url, "XDG_CACHE_HOME": str(cache)}
    guarded = World(world.root, environment)
    manifest = guarded.manifest("canaries", checkpoints={"uri": "s3://runs/canaries/"}, budget={"tokens": 4096})
    done = guarded.run(manifest, "canaries")
    assert done.code == 0, done.err
    assert (guarded.root / "canaries" / "mlflow.db").is_file()
    assert leaks(done, guarded.root / "canaries", cache) == []
    objects = dict(store.contents())
    assert "s3://runs/canaries/step-00000016/COMMITTED" in objects
    assert [name for name, body in objects.items() if CANARY.encode() in body] == []


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("spec.tracking.uri", {"tracking": {"uri": f"http://user:{CANARY}@127.0.0.1:9"}}),
        ("spec.checkpoints.uri", {"checkpoints": {"uri": f"s3://user:{CANARY}@runs/x/"}}),
        ("spec.corpus.sources[0].uri", {"corpus": {"sources": [{"name": "a", "uri": f"s3://u:{CANARY}@c/a.txt"}]}}),
    ],
)
def test_credentials_in_a_manifest_are_refused_and_not_repeated(world: World, field: str, changes: Any) -> None:
    manifest = world.manifest("refused-canary", **changes)
    done = world.run(manifest, "refused-canary")
    assert done.code == 64
    said = "".join((done.out + done.err).split())
    assert field in said
    assert "://***@" in said
    assert CANARY not in said
    assert not (world.root / "refused-canary").exists()
    manifest.unlink()


def test_credentials_in_the_address_of_a_server_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody put them into AWS_ENDPOINT_URL: what boto says of it goes into our message."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{nobody.getsockname()[1]}"
        keys = {"ENDPOINT_URL": f"http://user:{CANARY}@{where}", "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": CANARY}
        for name, value in {**keys, "MAX_ATTEMPTS": "1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("REWARM_STORAGE_DEADLINE_SECONDS", "1")
        with pytest.raises(DependencyError) as told:
            S3Storage("s3://runs/x").put("a", b"b")
    assert CANARY not in str(told.value)
    assert where in str(told.value)
    assert "***@" in str(told.value)
