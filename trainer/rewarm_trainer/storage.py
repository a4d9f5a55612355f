"""Files by key, in a folder or in a bucket: the only module that talks to S3.

Every write is whole or absent, and durable when the call returns. Errors have names: what is not there is
MissingInputError (66); a full disk, a store that stays away or refuses our credentials is DependencyError (75).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from rewarm_api.errors import DependencyError, MissingInputError
from rewarm_trainer.claims import SCHEME as CLAIM
from rewarm_trainer.claims import claim_path
from rewarm_trainer.files import beside, disk_errors, flush
from rewarm_trainer.local_storage import LocalStorage, copy_whole
from rewarm_trainer.patience import Patience
from rewarm_trainer.storage_protocol import Entry, NoConditions, Storage, Unfinished

__all__ = ["Entry", "LocalStorage", "NoConditions", "S3Storage", "Storage", "Unfinished", "copy_whole", "open_storage"]

MULTIPART_BYTES = 64 << 20
DELETE_AT_ONCE = 1000
READ_TIMEOUT_SECONDS = 120.0
ATTEMPTS = 3
"""Of boto3 itself, each with its own backoff; beyond them `Patience` decides."""
ABSENT = ("NoSuchKey", "NoSuchBucket", "NotFound", "404")
TAKEN = ("PreconditionFailed", "412")
CONFLICT = ("ConditionalRequestConflict", "409")
NO_CONDITIONS = ("NotImplemented", "501")
REFUSED = ("AccessDenied", "Forbidden", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
BUSY = ("SlowDown", "RequestTimeout", "RequestTimeoutException", "Throttling", "ThrottlingException", "429")

_Result = TypeVar("_Result")


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


@cache
def _client(endpoint: str | None, process: int, patience: float) -> Any:
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
        # One try must not outlast the patience for all of them.
        read_timeout=min(READ_TIMEOUT_SECONDS, max(1.0, patience)),
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
        return _client(endpoint, os.getpid(), Patience.from_environment().deadline)

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    def _ask(self, key: str, call: Callable[[], _Result]) -> _Result:
        """What a call gives; again while the store only stumbles, then an error of ours that names the key."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return Patience.from_environment().keep_trying(call, stumbles, self.uri(key))
        except (BotoCoreError, Boto3Error, ClientError) as error:
            raise self._named(key, _root(error)) from error

    def _named(self, key: str, error: BaseException) -> DependencyError | MissingInputError:
        where, code = self.uri(key), code_of(error)
        if code in ABSENT:
            return MissingInputError(f"{where}: no such object or bucket ({code})")
        if code in NO_CONDITIONS:
            return NoConditions(f"{where}: the store answered {code}; use one that honours conditional writes")
        if code:
            hint = "check the credentials and their rights" if code in REFUSED else "try again later"
            return DependencyError(f"{where}: the store answered {code}; {hint}")
        return DependencyError(
            f"{where}: the store cannot be used ({str(error).splitlines()[0]}); check AWS_ENDPOINT_URL, the "
            "credentials and the network"
        )

    def put(self, key: str, data: bytes) -> None:
        self._ask(key, lambda: self.client.put_object(**self._at(key), Body=data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        # The mark tells a refusal after our own write (its answer was lost and it was tried again) from another's.
        mark = uuid.uuid4().hex

        def write() -> bool:
            try:
                self.client.put_object(**self._at(key), Body=data, IfNoneMatch="*", Metadata={"writer": mark})
                return True
            except ClientError as error:
                if code_of(error) not in TAKEN:
                    raise
            return bool(self.client.head_object(**self._at(key))["Metadata"].get("writer") == mark)

        return self._ask(key, write)

    def put_file(self, key: str, path: Path) -> None:
        place = (self.bucket, self.prefix + key)
        self._ask(key, lambda: self.client.upload_file(str(path), *place, Config=self._transfer()))

    @staticmethod
    def _transfer() -> Any:
        from boto3.s3.transfer import TransferConfig

        return TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES)

    def get(self, key: str) -> bytes:
        return self._ask(key, lambda: bytes(self.client.get_object(**self._at(key))["Body"].read()))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        from botocore.exceptions import ClientError

        def read() -> bytes:
            try:
                answer = self.client.get_object(**self._at(key), Range=f"bytes={start}-{start + length - 1}")
            except ClientError as error:
                if code_of(error) in ("InvalidRange", "416"):
                    return b""
                raise
            return bytes(answer["Body"].read())

        return self._ask(key, read)

    def get_file(self, key: str, path: Path) -> None:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = beside(path)
            place = (self.bucket, self.prefix + key)
            try:
                self._ask(key, lambda: self.client.download_file(*place, str(temporary), Config=self._transfer()))
                flush(temporary)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def _pages(self, operation: str, prefix: str) -> list[dict[str, Any]]:
        pages = self.client.get_paginator(operation)
        found = self._ask(prefix, lambda: list(pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)))
        return found

    def list(self, prefix: str) -> list[Entry]:
        entries = [
            Entry(
                item["Key"].removeprefix(self.prefix),
                item["Size"],
                item.get("ETag", "").strip('"'),
                item["LastModified"].timestamp(),
            )
            for page in self._pages("list_objects_v2", prefix)
            for item in page.get("Contents", ())
        ]
        return sorted(entries, key=lambda entry: entry.key)

    def exists(self, key: str) -> bool:
        try:
            self._ask(key, lambda: self.client.head_object(**self._at(key)))
        except MissingInputError:
            return False
        return True

    def delete(self, key: str) -> None:
        self._ask(key, lambda: self.client.delete_object(**self._at(key)))

    def delete_prefix(self, prefix: str) -> None:
        keys = [{"Key": self.prefix + entry.key} for entry in self.list(prefix)]
        for start in range(0, len(keys), DELETE_AT_ONCE):
            some = {"Objects": keys[start : start + DELETE_AT_ONCE], "Quiet": True}
            answer = self._ask(prefix, lambda some=some: self.client.delete_objects(Bucket=self.bucket, Delete=some))
            if failed := answer.get("Errors"):
                raise DependencyError(
                    f"s3://{self.bucket}/{failed[0]['Key']}: cannot be deleted ({failed[0]['Code']}); check the rights"
                )

    def unfinished(self, prefix: str) -> list[Unfinished]:
        found = [
            Unfinished(item["Key"].removeprefix(self.prefix), item["Initiated"].timestamp(), item["UploadId"])
            for page in self._pages("list_multipart_uploads", prefix)
            for item in page.get("Uploads", ())
        ]
        return sorted(found, key=lambda write: (write.key, write.handle))

    def abandon(self, write: Unfinished) -> None:
        from botocore.exceptions import ClientError

        def abort() -> None:
            try:
                self.client.abort_multipart_upload(**self._at(write.key), UploadId=write.handle)
            except ClientError as error:
                if code_of(error) not in ("NoSuchUpload", *ABSENT):
                    raise

        self._ask(write.key, abort)


def _root(error: BaseException) -> BaseException:
    """What lies below an error of boto3's transfers, which wrap what the store said."""
    from boto3.exceptions import Boto3Error

    while isinstance(error, Boto3Error):
        below = getattr(error, "last_exception", None) or error.__cause__ or error.__context__
        if below is None:
            return error
        error = below
    return error


def code_of(error: BaseException) -> str:
    """The code that the store answered with; empty when it did not answer."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def stumbles(error: BaseException) -> bool:
    """Whether the same call may well succeed later: no answer, half an answer, busy, or broken inside."""
    from botocore import exceptions

    error = _root(error)
    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = code_of(error)
        return code not in NO_CONDITIONS and (status >= 500 or status == 429 or code in (*BUSY, *CONFLICT))
    away = (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError, exceptions.ProxyConnectionError)
    return isinstance(error, (*away, exceptions.HTTPClientError, exceptions.IncompleteReadError))
