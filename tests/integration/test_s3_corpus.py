"""Storage, corpora and the shared cache on a real S3 server (moto over HTTP)."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from rewarm_api.errors import DependencyError, MissingInputError
from rewarm_api.resolve import resolve
from rewarm_api.validate import validate
from rewarm_trainer import storage
from rewarm_trainer.corpus import pool
from rewarm_trainer.corpus.fetch import content_digest
from rewarm_trainer.corpus.inputs import expand
from rewarm_trainer.corpus.prepare import Prepared, prepare
from rewarm_trainer.corpus.tokenizer import TokenizerHandle, train_tokenizer
from rewarm_trainer.storage import Entry, S3Storage

TEXTS = [f"{number} " + "ab cd ef gh ij " * (10 + number % 7) for number in range(90)]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def _environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENDPOINT_URL", server), ("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bucket(request: pytest.FixtureRequest, server: str) -> str:
    name = f"test-{zlib.crc32(request.node.nodeid.encode())}"
    boto3.client("s3", endpoint_url=server, region_name="us-east-1").create_bucket(Bucket=name)
    return name


@pytest.fixture
def store(bucket: str) -> S3Storage:
    return S3Storage(f"s3://{bucket}/some/prefix/")


def test_what_is_put_is_there(store: S3Storage, tmp_path: Path) -> None:
    store.put("a/b", b"first")
    store.put("a/b", b"hello")
    assert store.get("a/b") == b"hello"
    assert [store.get_range("a/b", *span) for span in ((1, 3), (3, 9), (9, 9), (0, 0))] == [b"ell", b"lo", b"", b""]
    assert (store.exists("a/b"), store.exists("a"), store.exists("c")) == (True, False, False)
    assert [(entry.key, entry.size) for entry in store.list("a")] == [("a/b", 5)]
    store.put("a/c", b"")
    store.delete_prefix("a/")
    store.delete("not there")
    assert store.list("") == []


def test_large_files_travel_in_parts(store: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MULTIPART_BYTES", 5 << 20)
    (tmp_path / "large").write_bytes(os.urandom((11 << 20) + 3))
    store.put_file("large", tmp_path / "large")
    (entry,) = store.list("large")
    assert entry == Entry("large", (11 << 20) + 3, entry.version)
    assert entry.version.endswith("-3")
    store.get_file("large", tmp_path / "deep/copy")
    assert content_digest(tmp_path / "deep/copy") == content_digest(tmp_path / "large")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_of_many_writers_one_wins(store: S3Storage) -> None:
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda number: store.put_if_absent("fence/1", b"%d" % number), range(16)))
    assert won.count(True) == 1
    assert store.get("fence/1") == b"%d" % won.index(True)


def test_listings_go_on_after_a_thousand(store: S3Storage) -> None:
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda number: store.put(f"many/{number:04d}", b""), range(1005)))
    assert [entry.key for entry in store.list("many/")] == [f"many/{number:04d}" for number in range(1005)]
    store.delete_prefix("many/")
    assert store.list("many/") == []


def test_what_is_not_there_is_66(store: S3Storage, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="some/prefix/no: no such object or bucket"):
        store.get("no")
    with pytest.raises(MissingInputError, match="some/prefix/no: no such object or bucket"):
        store.get_file("no", tmp_path / "no")
    with pytest.raises(MissingInputError, match="s3://no-such-bucket/: no such object or bucket"):
        S3Storage("s3://no-such-bucket").list("")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_stays_away_is_75(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("REWARM_STORAGE_DEADLINE_SECONDS", "0")
    with pytest.raises(DependencyError, match=r"cannot be used .*check AWS_ENDPOINT_URL") as caught:
        S3Storage(f"s3://{bucket}").get("a")
    assert caught.value.exit_code == 75


def lines_of(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_globs_and_folders_mean_the_same_as_local_ones(bucket: str, tmp_path: Path) -> None:
    names = ["b.jsonl", "a.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl", "sub/deep/e.txt"]
    store = S3Storage(f"s3://{bucket}/corpus")
    for name in names:
        store.put(name, b"x")
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text("x")
    for pattern in (
        "*.jsonl",
        "**/*.jsonl",
        "sub/*.jsonl",
        "sub",
        "sub/deep/*",
        "[ab].jsonl",
        "a.jsonl",
        "s*/d*/*.txt",
    ):
        there = [file.relative for file in expand(f"s3://{bucket}/corpus/{pattern}", tmp_path)]
        assert there == [file.relative for file in expand(f"corpus/{pattern}", tmp_path)], pattern
    for pattern in ("x*.jsonl", "nothing/"):
        with pytest.raises(MissingInputError, match="no object matches"):
            expand(f"s3://{bucket}/corpus/{pattern}", tmp_path)


def run_on(uri: str, root: Path, folder: Path, tokenizer: TokenizerHandle | None, **changes: Any) -> Prepared:
    spec = {
        "baseModel": {"scratch": {"config": {"model_type": "llama"}, "tokenizer": {"vocabularySize": 300}}},
        "corpus": {"sources": [{"name": "new", "uri": uri}]},
        "schedule": {"peakLearningRate": 1e-3},
        "budget": {"tokens": 4096},
        "training": {"sequenceLength": 16, "globalBatchTokens": 256},
        **changes,
    }
    document = {"apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun", "metadata": {"name": "demo"}, "spec": spec}
    validation = validate(document, local=True)
    assert validation.run is not None, validation.problems
    return prepare(resolve(validation.run, uid="u"), root=root, cache=folder, tokenizer=tokenizer)


@pytest.fixture
def tokenizer(tmp_path: Path) -> TokenizerHandle:
    train_tokenizer(TEXTS, 300, tmp_path / "tokenizer")
    return TokenizerHandle.load(tmp_path / "tokenizer")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_corpus_in_a_bucket_is_the_same_corpus(
    bucket: str, tmp_path: Path, tokenizer: TokenizerHandle, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "worker_count", lambda tasks, size, lightness=1: workers)
    (tmp_path / "parts").mkdir()
    for number in range(3):
        content = gzip.compress(lines_of(TEXTS[number * 30 : number * 30 + 30]))
        (tmp_path / f"parts/{number}.jsonl.gz").write_bytes(content)
        S3Storage(f"s3://{bucket}").put(f"data/{number}.jsonl.gz", content)
    local = run_on("parts/*.jsonl.gz", tmp_path, tmp_path / "cache", tokenizer)
    remote = run_on(f"s3://{bucket}/data/*.jsonl.gz", tmp_path, tmp_path / "other", tokenizer)
    assert remote.pins == local.pins
    assert list((tmp_path / "other/fetched").iterdir()) == []


def test_a_second_run_fetches_nothing_and_a_changed_object_is_noticed(
    bucket: str, tmp_path: Path, tokenizer: TokenizerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Storage(f"s3://{bucket}")
    store.put("new.jsonl", lines_of(TEXTS))
    first = run_on(f"s3://{bucket}/new.jsonl", tmp_path, tmp_path / "cache", tokenizer)
    fetched: list[str] = []
    whole = S3Storage.get_file

    def noted(self: S3Storage, key: str, path: Path) -> None:
        fetched.append(key)
        whole(self, key, path)

    monkeypatch.setattr(S3Storage, "get_file", noted)
    again = run_on(f"s3://{bucket}/new.jsonl", tmp_path, tmp_path / "cache", tokenizer)
    assert again.pins == first.pins
    assert fetched == []
    store.put("new.jsonl", lines_of(TEXTS[:-1]))
    changed = run_on(f"s3://{bucket}/new.jsonl", tmp_path, tmp_path / "cache", tokenizer)
    assert changed.pins.sources["new"].digest != first.pins.sources["new"].digest
    assert fetched


def test_machines_share_a_cache(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second machine finds tokenizer, shards and sets; a damaged copy is not believed but made again."""
    from rewarm_trainer.corpus import tokenise

    (tmp_path / "new.jsonl").write_bytes(lines_of(TEXTS))
    shared = {"cache": {"uri": f"s3://{bucket}/cache/"}}
    first = run_on("new.jsonl", tmp_path, tmp_path / "one", None, **shared)
    made: list[object] = []
    whole = tokenise.write_piece
    monkeypatch.setattr(tokenise, "write_piece", lambda *arguments: (made.append(arguments), whole(*arguments)))
    second = run_on("new.jsonl", tmp_path, tmp_path / "two", None, **shared)
    assert second.pins == first.pins
    assert made == []
    store = S3Storage(f"s3://{bucket}/cache")
    (shard,) = [entry.key for entry in store.list("sources/") if entry.key.endswith(".bin")]
    store.put(shard, b"damaged")
    third = run_on("new.jsonl", tmp_path, tmp_path / "three", None, **shared)
    assert third.pins == first.pins
    assert len(made) == 1
    assert run_on("new.jsonl", tmp_path, tmp_path / "four", None, **shared).pins == first.pins
    assert len(made) == 1, "the damaged copy was not replaced"


def test_token_shards_in_a_bucket(bucket: str, tmp_path: Path, tokenizer: TokenizerHandle) -> None:
    (tmp_path / "new.jsonl").write_bytes(lines_of(TEXTS))
    local = run_on("new.jsonl", tmp_path, tmp_path / "cache", tokenizer)
    store = S3Storage(f"s3://{bucket}/tokens")
    for path in local.source_folders["new"].iterdir():
        store.put_file(path.name, path)
    (tmp_path / "eval.jsonl").write_bytes(lines_of([f"other {text}" for text in TEXTS[:40]]))
    remote = run_on(
        "",
        tmp_path,
        tmp_path / "other",
        tokenizer,
        corpus={"sources": [{"name": "new", "uri": f"s3://{bucket}/tokens/*.bin", "format": "Tokens"}]},
        evaluation={"sets": [{"name": "eval", "role": "New", "uri": "eval.jsonl"}]},
    )
    assert remote.pins.sources["new"].rows == local.pins.sources["new"].rows
    assert (remote.sources()["new"].row(3) == local.sources()["new"].row(3)).all()
