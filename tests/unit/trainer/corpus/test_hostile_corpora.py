"""Who may write into a corpus or a shared cache chooses its text and nothing else: no other file is read or written."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from rewarm_api.errors import DataError, MissingInputError
from rewarm_trainer.corpus.inputs import expand
from rewarm_trainer.corpus.mirror import MARKER, Mirror
from rewarm_trainer.corpus.shards import Index
from rewarm_trainer.storage import LocalStorage

SECRET = "outside/secret.txt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus with a good file, beside a secret that is not part of it."""
    for name in ("corpus/a.txt", SECRET):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("uri", ["corpus", "corpus/*.txt", "**/*.txt", "corpus/", "file://{}/corpus/*.txt"])
def test_a_link_that_leaves_the_folder_is_refused(folder: Path, uri: str) -> None:
    (folder / "corpus" / "b.txt").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match=r"corpus/b\.txt: leads by a link to /etc/hostname, expected a file inside"):
        expand(uri.format(folder), folder)


def test_a_linked_folder_is_refused_like_a_linked_file(folder: Path) -> None:
    (folder / "corpus" / "more").symlink_to(folder / "outside")
    with pytest.raises(DataError, match=r"more/secret\.txt: leads by a link to .*outside/secret\.txt.*source of its"):
        expand("corpus/**/*.txt", folder)
    assert [file.relative for file in expand("corpus", folder)] == ["a.txt"], "a folder is read without its links"


def test_links_inside_and_a_link_that_the_manifest_names_are_read(folder: Path) -> None:
    (folder / "corpus" / "b.txt").symlink_to("a.txt")
    assert [file.relative for file in expand("corpus/*.txt", folder)] == ["a.txt", "b.txt"]
    (folder / "named.txt").symlink_to(folder / SECRET)
    assert [file.relative for file in expand("named.txt", folder)] == ["named.txt"]
    (folder / "latest").symlink_to(folder / "corpus")
    assert [file.relative for file in expand("latest/*.txt", folder)] == ["a.txt", "b.txt"]


@pytest.mark.parametrize("uri", ["claim://corpus/b.txt", "claim://corpus/*.txt", "claim://corpus/"])
def test_no_link_leaves_a_claim(folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARM_CLAIMS", str(folder))
    (folder / "corpus" / "b.txt").symlink_to(os.path.relpath(folder / SECRET, folder / "corpus"))
    with pytest.raises(DataError, match=r"b\.txt: leads by a link to .*secret\.txt, expected a file inside .*corpus"):
        expand(uri, Path("/"))


@pytest.mark.parametrize("path", ["/etc/hostname", "/", "a/../../outside/secret.txt", ".."])
def test_no_path_leaves_a_claim(folder: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARM_CLAIMS", str(folder))
    with pytest.raises(MissingInputError, match="the path leaves its claim; give a path below claim 'corpus'"):
        expand(f"claim://corpus/{path}", Path("/"))


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/hostname", "a/b.bin", "..", ""])
def test_an_index_of_shards_names_only_what_lies_beside_it(tmp_path: Path, name: str) -> None:
    index = {"dtype": "uint16", "tokenizer": "t", "documents": 1, "eos": 0}
    index["shards"] = [{"file": name, "tokens": 1, "sha256": "0"}]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=f"shard {name!r}, expected the name of a file beside it"):
        Index.read(tmp_path)


@pytest.mark.parametrize("marker", ['{"../../../escaped": "0"}', '{"/escaped": "0"}', '["a"]', "no JSON"])
def test_a_shared_cache_cannot_write_elsewhere(tmp_path: Path, marker: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its marker lists what is copied; it lies in a bucket where others may write."""
    shared = LocalStorage(tmp_path / "shared")
    shared.put(f"sources/x/{MARKER}", marker.encode())
    (tmp_path / "shared" / "escaped").write_text("planted")
    mirror = Mirror(tmp_path / "cache", shared)
    with caplog.at_level(logging.WARNING):
        mirror.fetch(tmp_path / "cache" / "sources" / "x")
        assert mirror.fetch_file(tmp_path / "cache" / "sources" / "x", "a.bin") is None
    assert "is no list of files; preparing it here instead" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if "escaped" in path.name and "shared" not in path.parts]
    assert not shared.exists(f"sources/x/{MARKER}"), "so that the next one stores it whole"
