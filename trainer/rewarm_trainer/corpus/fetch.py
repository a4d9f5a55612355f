"""The content of an input file, wherever it lies: local files in place, objects through a copy, removed after use."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path

from rewarm_api.errors import DataError, MissingInputError
from rewarm_trainer.corpus.inputs import InputFile
from rewarm_trainer.corpus.readers import Advance, Broken, Document, Fields, reader_for
from rewarm_trainer.files import write_bytes


@contextmanager
def fetched(file: InputFile, cache: Path) -> Iterator[Path]:
    """A local path with the file's bytes, for the time of the block."""
    if file.local is not None:
        yield file.local
        return
    from rewarm_trainer.storage import S3Storage

    bucket, _, key = file.uri.removeprefix("s3://").partition("/")
    folder = cache / "fetched"
    folder.mkdir(parents=True, exist_ok=True)
    # The name keeps its end: readers look at .gz and .zst.
    path = folder / f"{uuid.uuid4().hex}-{os.path.basename(key)}"
    try:
        S3Storage(f"s3://{bucket}").get_file(key, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def documents_of(file: InputFile, fields: Fields, cache: Path, advance: Advance) -> Iterator[Document | Broken]:
    """Documents of a file in order. Raises MissingInputError when it has gone, BrokenFile when the rest is lost."""
    if file.uri.startswith("hf://"):
        from rewarm_trainer.corpus.hugging_face import read_rows

        yield from read_rows(file, fields, advance)
        return
    if file.format is None:
        raise DataError(f"{file.uri}: format unknown; set the source's format")
    try:
        with fetched(file, cache) as path:
            yield from reader_for(file.format)(path, fields, advance)
    except (FileNotFoundError, PermissionError) as error:
        raise MissingInputError(f"{file.uri}: cannot be opened ({error.strerror}); restore it or its rights") from error


def content_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    try:
        with path.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except (FileNotFoundError, PermissionError) as error:
        raise MissingInputError(f"{path}: cannot be opened ({error.strerror}); restore it or its rights") from error


def _note(file: InputFile, cache: Path) -> Path:
    name = sha256(f"{file.uri}\n{file.size}\n{file.version}".encode()).hexdigest()
    return cache / "digests" / name[:2] / name


def known_digest(file: InputFile, cache: Path) -> str:
    """sha256 of an object that was read before under the same entity tag and size, else nothing. Never local files."""
    if file.local is not None or not file.version or file.uri.startswith("hf://"):
        return ""
    note = _note(file, cache)
    return note.read_text() if note.is_file() else ""


def remember_digest(file: InputFile, digest: str, cache: Path) -> None:
    if file.local is None and file.version:
        write_bytes(_note(file, cache), digest.encode())
