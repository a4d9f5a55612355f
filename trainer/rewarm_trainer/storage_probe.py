"""`python -m rewarm_trainer.storage_probe URI`: is this a place where checkpoints can be committed?

`helm test` runs it under the trainer's credentials. A commit is a marker written with `If-None-Match: *`; a store that
passes over the header would let two attempts commit one checkpoint, and is refused here.
"""

from __future__ import annotations

import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rewarm_api.errors import DependencyError, RewarmError
from rewarm_trainer.storage import Storage, open_storage

WRITERS = 8


def probe(storage: Storage) -> None:
    """Writes, reads, writes conditionally, lists and deletes under a name of its own. RewarmError says what failed."""
    prefix = f"rewarm-selftest-{uuid.uuid4().hex}/"
    try:
        _plain(storage, prefix)
        _conditional(storage, f"{prefix}COMMITTED")
        _race(storage, f"{prefix}RACED")
    finally:
        storage.delete_prefix(prefix)
    if left := storage.list(prefix):
        raise DependencyError(f"{storage.uri(left[0].key)}: found after it was deleted; allow s3:DeleteObject")


def _plain(storage: Storage, prefix: str) -> None:
    key = f"{prefix}file"
    storage.put(key, b"first")
    storage.put(key, b"second")
    if (found := storage.get(key)) != b"second":
        raise DependencyError(
            f"{storage.uri(key)}: found {found!r} after writing b'second'; use a store that reads writes"
        )
    if [entry.key for entry in storage.list(prefix)] != [key]:
        raise DependencyError(f"{storage.uri(prefix)}: a file just written is not listed; allow s3:ListBucket")


def _conditional(storage: Storage, key: str) -> None:
    first, second = storage.put_if_absent(key, b"first"), storage.put_if_absent(key, b"second")
    if not first or second or storage.get(key) != b"first":
        raise DependencyError(
            f"{storage.uri(key)}: a second write with If-None-Match was taken, expected 412; this store passes over "
            "conditional writes, so checkpoints are not safe in it: use one that honours them"
        )


def _race(storage: Storage, key: str) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        won = sum(pool.map(lambda number: storage.put_if_absent(key, str(number).encode()), range(WRITERS)))
    if won != 1:
        raise DependencyError(
            f"{storage.uri(key)}: {won} of {WRITERS} writers at once were told that theirs was first, expected 1; "
            "use a store whose conditional writes are atomic"
        )


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m rewarm_trainer.storage_probe URI", file=sys.stderr)
        return 64
    try:
        probe(open_storage(arguments[0], root=Path.cwd()))
    except RewarmError as error:
        print(f"FAILED  {error}", file=sys.stderr)
        return error.exit_code
    print(f"ok      {arguments[0]}: writes, conditional writes, lists and deletes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
