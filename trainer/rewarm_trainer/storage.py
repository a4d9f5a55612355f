"""Files by key, in a folder or in a bucket: the only module that talks to S3.

Every write is whole or absent, and durable when the call returns. Errors have names: what is not there is
MissingInputError (66); a full disk, a store that stays away or refuses our credentials is DependencyError (75).
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from rewarm_api.errors import DependencyError, MissingInputError
from rewarm_trainer.claims import SCHEME as CLAIM
from rewarm_trainer.claims import claim_path
from rewarm_trainer.files import beside, disk_errors, flush, write_bytes

MULTIPART_BYTES = 64 << 20
DELETE_AT_ONCE = 1000
ATTEMPTS = 8
ABSENT = ("NoSuchKey", "NoSuchBucket", "NotFound", "404")
TAKEN = ("PreconditionFailed", "412")
CONFLICT = ("ConditionalRequestConflict", "409")
REFUSED = ("AccessDenied", "Forbidden", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
CONFLICT_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a listing: its key below the root, its size in bytes, and the entity tag where the store has one."""

    key: str
    size: int
    version: str = ""


class Storage(Protocol):
    """Files by key. Keys are relative, with slashes; a prefix is any beginning of a key."""

    def uri(self, key: str) -> str:
        """Where a key lies, for messages and records."""

    def put(self, key: str, data: bytes) -> None:
        """Writes or replaces a file."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes a file unless one is there; of many callers exactly one is told True."""

    def put_file(self, key: str, path: Path) -> None:
        """Writes or replaces a file by a copy of a local one."""

    def get(self, key: str) -> bytes:
        """The content of a file."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes from byte `start`; fewer at the end of the file."""

    def get_file(self, key: str, path: Path) -> None:
        """Copies a file to a local path, which is replaced only by the whole."""

    def list(self, prefix: str) -> list[Entry]:
        """All files whose key begins with `prefix`, sorted by key."""

    def exists(self, key: str) -> bool:
        """Whether a file is there."""

    def delete(self, key: str) -> None:
        """Removes a file; nothing happens when it is not there."""

    def delete_prefix(self, prefix: str) -> None:
        """Removes every file whose key begins with `prefix`."""


def open_storage(uri: str | Path, *, root: Path) -> Storage:
    """The storage of `s3://bucket/prefix/`, `claim://NAME/path`, `file:///folder` or a path (relative to `root`)."""
    text = str(uri)
    if text.startswith("s3://"):
        return S3Storage(text)
    if text.startswith(CLAIM):
        return LocalStorage(claim_path(text), text)
    if "://" in text and not text.startswith("file://"):
        raise MissingInputError(f"{text}: cannot be opened here; expected a path, file://, claim:// or s3://")
    return LocalStorage(root / Path(text.removeprefix("file://")).expanduser())


class LocalStorage:
    """A folder. It need not exist before the first write.

    `address`: how others know it (`claim://NAME/path`), where that is not its path.
    """

    def __init__(self, root: Path, address: str = "") -> None:
        self.root = root.absolute()
        self._address = address.rstrip("/")

    def uri(self, key: str) -> str:
        if self._address:
            return f"{self._address}/{key}" if key else self._address
        return str(self._path(key)) if key else str(self.root)

    def _path(self, key: str) -> Path:
        if ".." in key.split("/") or key.startswith("/"):
            raise ValueError(f"key {key!r} leaves its storage")
        return self.root / key

    @contextmanager
    def _present(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        try:
            yield path
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise MissingInputError(f"{path}: no such file") from error

    def put(self, key: str, data: bytes) -> None:
        write_bytes(self._path(key), data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        temporary = beside(target)
        try:
            write_bytes(temporary, data)
            with disk_errors(target):
                os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        flush(target.parent)
        return True

    def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_whole(path, target)
            flush(target.parent)

    def get(self, key: str) -> bytes:
        with self._present(key) as path:
            return path.read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._present(key) as path, path.open("rb") as stream:
            stream.seek(start)
            return stream.read(length)

    def get_file(self, key: str, path: Path) -> None:
        with self._present(key) as source:
            source.stat()
            path.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(path):
                copy_whole(source, path)

    def list(self, prefix: str) -> list[Entry]:
        folder = self.root / prefix.rpartition("/")[0]
        entries = []
        for path in folder.rglob("*") if folder.is_dir() else ():
            key = path.relative_to(self.root).as_posix()
            # Names that begin with a dot are writes under way.
            if key.startswith(prefix) and not path.name.startswith(".") and path.is_file():
                with suppress(FileNotFoundError):
                    entries.append(Entry(key, path.stat().st_size))
        return sorted(entries, key=lambda entry: entry.key)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            flush(path.parent)

    def delete_prefix(self, prefix: str) -> None:
        if prefix.endswith("/") and self._path(prefix).is_dir():
            shutil.rmtree(self._path(prefix))
            return
        for entry in self.list(prefix):
            self.delete(entry.key)


def copy_whole(source: Path, target: Path) -> None:
    """Copies a file so that `target` is either the old one or the whole new one, and on the disk."""
    temporary = beside(target)
    try:
        shutil.copyfile(source, temporary)
        flush(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _client(endpoint: str | None, process: int) -> Any:
    """One client per process: sockets do not survive a fork, and building one takes a third of a second."""
    import boto3
    from botocore.config import Config

    own = (
        {
            "s3": {"addressing_style": "path"},
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        if endpoint
        else {}
    )
    config = Config(
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        connect_timeout=10,
        read_timeout=120,
        max_pool_connections=32,
        **own,
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else None)
    return boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)


class S3Storage:
    """Objects below `s3://bucket/prefix`. Credentials and region come from the environment, as boto3 reads them.

    `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` names another store than Amazon's; it is addressed by path.
    """

    def __init__(self, uri: str) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise MissingInputError(f"{uri}: no bucket; expected s3://bucket/prefix/")
        self.bucket = bucket
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""

    @property
    def client(self) -> Any:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        return _client(endpoint, os.getpid())

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    @contextmanager
    def _named(self, key: str) -> Iterator[None]:
        """Turns what boto3 raises into errors of ours, naming the object."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        where = self.uri(key)
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ABSENT:
                raise MissingInputError(f"{where}: no such object or bucket ({code})") from error
            hint = "check the credentials and their rights" if code in REFUSED else "try again later"
            raise DependencyError(f"{where}: the store answered {code or error}; {hint}") from error
        except (BotoCoreError, Boto3Error) as error:
            raise DependencyError(
                f"{where}: the store cannot be used ({str(error).splitlines()[0]}); check AWS_ENDPOINT_URL, the "
                "credentials and the network"
            ) from error

    def put(self, key: str, data: bytes) -> None:
        with self._named(key):
            self.client.put_object(**self._at(key), Body=data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        # The mark tells a refusal after our own write (its answer was lost and boto3 tried again) from another's.
        mark = uuid.uuid4().hex
        with self._named(key):
            for attempt in range(CONFLICT_ATTEMPTS):
                try:
                    self.client.put_object(**self._at(key), Body=data, IfNoneMatch="*", Metadata={"writer": mark})
                    return True
                except ClientError as error:
                    code = str(error.response.get("Error", {}).get("Code", ""))
                    if code in TAKEN:
                        return bool(self.client.head_object(**self._at(key))["Metadata"].get("writer") == mark)
                    if code not in CONFLICT or attempt == CONFLICT_ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable")

    def put_file(self, key: str, path: Path) -> None:
        with self._named(key):
            self.client.upload_file(str(path), self.bucket, self.prefix + key, Config=self._transfer())

    @staticmethod
    def _transfer() -> Any:
        from boto3.s3.transfer import TransferConfig

        return TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES)

    def get(self, key: str) -> bytes:
        with self._named(key):
            content: bytes = self.client.get_object(**self._at(key))["Body"].read()
            return content

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        from botocore.exceptions import ClientError

        with self._named(key):
            try:
                answer = self.client.get_object(**self._at(key), Range=f"bytes={start}-{start + length - 1}")
            except ClientError as error:
                if str(error.response.get("Error", {}).get("Code", "")) in ("InvalidRange", "416"):
                    return b""
                raise
            content: bytes = answer["Body"].read()
            return content

    def get_file(self, key: str, path: Path) -> None:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = beside(path)
            try:
                with self._named(key):
                    self.client.download_file(self.bucket, self.prefix + key, str(temporary), Config=self._transfer())
                flush(temporary)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def list(self, prefix: str) -> list[Entry]:
        entries = []
        with self._named(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self.prefix)
                    entries.append(Entry(key, item["Size"], item.get("ETag", "").strip('"')))
        return sorted(entries, key=lambda entry: entry.key)

    def exists(self, key: str) -> bool:
        try:
            with self._named(key):
                self.client.head_object(**self._at(key))
        except MissingInputError:
            return False
        return True

    def delete(self, key: str) -> None:
        with self._named(key):
            self.client.delete_object(**self._at(key))

    def delete_prefix(self, prefix: str) -> None:
        keys = [{"Key": self.prefix + entry.key} for entry in self.list(prefix)]
        for start in range(0, len(keys), DELETE_AT_ONCE):
            with self._named(prefix):
                answer = self.client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": keys[start : start + DELETE_AT_ONCE], "Quiet": True}
                )
            if failed := answer.get("Errors"):
                raise DependencyError(
                    f"s3://{self.bucket}/{failed[0]['Key']}: cannot be deleted ({failed[0]['Code']}); check the rights"
                )
