"""What every storage promises, on a folder. tests/integration/test_s3_corpus.py asks the same of a bucket."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rewarm_api.errors import DependencyError, MissingInputError
from rewarm_trainer.storage import Entry, LocalStorage, S3Storage, open_storage


@pytest.fixture
def store(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "root")


def test_what_is_put_is_there(store: LocalStorage, tmp_path: Path) -> None:
    store.put("a/b", b"first")
    store.put("a/b", b"hello")
    assert store.get("a/b") == b"hello"
    assert [store.get_range("a/b", *span) for span in ((1, 3), (3, 9), (9, 9), (0, 0))] == [b"ell", b"lo", b"", b""]
    assert (store.exists("a/b"), store.exists("a"), store.exists("c")) == (True, False, False)
    (tmp_path / "file").write_bytes(b"file")
    store.put_file("a/c", tmp_path / "file")
    store.get_file("a/c", tmp_path / "deep/copy")
    assert (tmp_path / "deep/copy").read_bytes() == b"file"
    assert store.list("") == [Entry("a/b", 5), Entry("a/c", 4)]
    assert store.uri("a/b") == str(tmp_path / "root/a/b")


def test_listing_goes_by_the_beginning_of_keys(store: LocalStorage) -> None:
    for key in ("step-1/x", "step-2/x", "step-2/y/z", "stop", "other/step-3"):
        store.put(key, b"")
    assert [entry.key for entry in store.list("step-")] == ["step-1/x", "step-2/x", "step-2/y/z"]
    assert [entry.key for entry in store.list("step-2/")] == ["step-2/x", "step-2/y/z"]
    assert store.list("nothing/") == []
    store.delete_prefix("step-2/")
    store.delete_prefix("st")
    store.delete("not there")
    assert [entry.key for entry in store.list("")] == ["other/step-3"]


def test_of_many_writers_one_wins(store: LocalStorage) -> None:
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda number: store.put_if_absent("fence/1", b"%d" % number), range(32)))
    assert won.count(True) == 1
    assert store.get("fence/1") == b"%d" % won.index(True)
    assert [entry.key for entry in store.list("")] == ["fence/1"]


def test_what_is_not_there_is_66(store: LocalStorage, tmp_path: Path) -> None:
    for read in (
        lambda: store.get("a/b"),
        lambda: store.get_range("a/b", 0, 1),
        lambda: store.get_file("a/b", tmp_path / "copy"),
    ):
        with pytest.raises(MissingInputError, match="root/a/b: no such file"):
            read()
    assert not (tmp_path / "copy").exists()


def test_a_full_disk_is_75_and_leaves_the_old_file(
    store: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", b"old")
    (tmp_path / "new").write_bytes(b"new")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: store.put("a", b"new"),
        lambda: store.put_file("a", tmp_path / "new"),
        lambda: store.put_if_absent("b", b"new"),
    ):
        with pytest.raises(DependencyError, match=r"disk full while writing \(No space left on device\); free"):
            write()
    monkeypatch.undo()
    assert store.get("a") == b"old"
    assert [path.name for path in store.root.iterdir()] == ["a"]


@pytest.mark.parametrize("key", ["../outside", "a/../../b", "/etc/passwd"])
def test_keys_stay_inside(store: LocalStorage, key: str) -> None:
    with pytest.raises(ValueError, match="leaves its storage"):
        store.put(key, b"")


def test_uris_open_the_storage_they_name(tmp_path: Path) -> None:
    bucket = open_storage("s3://bucket/some/prefix/", root=tmp_path)
    assert isinstance(bucket, S3Storage)
    assert bucket.uri("key") == "s3://bucket/some/prefix/key"
    for uri, expected in (("runs", tmp_path / "runs"), (f"file://{tmp_path}/x", tmp_path / "x"), (tmp_path, tmp_path)):
        folder = open_storage(uri, root=tmp_path)
        assert isinstance(folder, LocalStorage)
        assert folder.root == expected
    with pytest.raises(MissingInputError, match="claim://c/x: no claims are mounted here"):
        open_storage("claim://c/x", root=tmp_path)
    with pytest.raises(MissingInputError, match="no bucket"):
        S3Storage("s3:///key")
