"""Token shards on disk: `00000.bin`, ... (uint16 or uint32, little-endian) and `index.json`, written last.

One folder is one token stream: documents one after another, each [BOS] + tokens + EOS; shards cut it anywhere.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from rewarm_api.errors import DataError, MissingInputError
from rewarm_trainer.files import is_plain_name, write_json

VERSION = 1
SHARD_TOKENS = 1 << 28
COPY_TOKENS = 1 << 18
DTYPES = ("uint16", "uint32")


def dtype_for(largest_id: int) -> str:
    """The smallest type that holds every id of a tokenizer."""
    return "uint16" if largest_id < 1 << 16 else "uint32"


def stored(ids: Sequence[int], dtype: str) -> bytes:
    """Token ids as shards have them. A list becomes bytes twice as fast this way as through an array."""
    return struct.pack(f"<{len(ids)}{'H' if dtype == 'uint16' else 'I'}", *ids)


@dataclass(frozen=True, slots=True)
class Shard:
    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Index:
    """What `index.json` says.

    The stream depends on text and tokenizer alone. `rows` (at `sequence_length`), `license` and `digest` (of the
    source's files) are those of the latest preparation that used the folder.
    """

    dtype: str
    tokenizer: str
    eos: int
    bos: int | None
    documents: int
    tokens: int
    largest_id: int
    shards: tuple[Shard, ...]
    rows: int = 0
    sequence_length: int = 0
    license: str | None = None
    digest: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "rows": self.rows,
            "sequenceLength": self.sequence_length,
            "documents": self.documents,
            "tokens": self.tokens,
            "dtype": self.dtype,
            "tokenizer": self.tokenizer,
            "eos": self.eos,
            "bos": self.bos,
            "largestId": self.largest_id,
            "shards": [{"file": each.file, "tokens": each.tokens, "sha256": each.sha256} for each in self.shards],
            "license": self.license,
            "digest": self.digest,
        }

    @classmethod
    def read(cls, folder: Path) -> Index:
        """Reads and checks `index.json`: MissingInputError (66) when absent, DataError (65) naming what is wrong."""
        return cls.load(folder / "index.json")

    @classmethod
    def load(cls, path: Path) -> Index:
        """Reads an index under any name."""
        try:
            value = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise MissingInputError(f"{path}: not there; expected an index.json beside the token shards") from error
        except (ValueError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not JSON ({error}); make the shards again") from error
        return cls.parse(value, path)

    @classmethod
    def parse(cls, value: Any, path: Path) -> Index:
        expected: dict[str, Any] = {"dtype": str, "tokenizer": str, "documents": int, "shards": list}
        for name, kind in expected.items():
            found = value.get(name) if isinstance(value, dict) else None
            if not isinstance(found, kind) or isinstance(found, bool):
                raise DataError(f"{path}: {name} is {found!r}, expected {kind.__name__}; make the shards again")
        if value["dtype"] not in DTYPES:
            raise DataError(f"{path}: dtype is {value['dtype']!r}, expected {' or '.join(DTYPES)}")
        try:
            shards = tuple(Shard(str(s["file"]), int(s["tokens"]), str(s["sha256"])) for s in value["shards"])
            for shard in shards:
                if not is_plain_name(shard.file):
                    raise DataError(
                        f"{path}: shard {shard.file!r}, expected the name of a file beside it; make the shards again"
                    )
            return cls(
                dtype=value["dtype"],
                tokenizer=value["tokenizer"],
                eos=int(value["eos"]),
                bos=None if value.get("bos") is None else int(value["bos"]),
                documents=value["documents"],
                tokens=sum(shard.tokens for shard in shards),
                largest_id=int(value.get("largestId", -1)),
                shards=shards,
                rows=int(value.get("rows", 0)),
                sequence_length=int(value.get("sequenceLength", 0)),
                license=value.get("license"),
                digest=str(value.get("digest", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: {type(error).__name__} {error}; expected eos and shards of file, tokens, sha256"
            ) from error

    def at(self, sequence_length: int) -> Index:
        """The same stream in rows of `sequence_length`: rows = floor((tokens - 1) / S)."""
        return replace(self, rows=max(0, self.tokens - 1) // sequence_length, sequence_length=sequence_length)


class ShardWriter:
    """Cuts a token stream into shards of at most `shard_tokens` in one folder. Use as a context."""

    def __init__(self, place: Path, dtype: str, shard_tokens: int = SHARD_TOKENS) -> None:
        self._place, self._kind, self._limit = place, np.dtype(dtype).newbyteorder("<"), shard_tokens
        self.shards: list[Shard] = []
        self.largest_id = -1
        self._stream: IO[bytes] | None = None
        self._digest, self._filled = sha256(), 0

    def write(self, values: np.ndarray) -> None:
        """Appends token ids."""
        if len(values):
            self.largest_id = max(self.largest_id, int(values.max()))
        while len(values):
            if self._stream is None:
                self._stream = (self._place / f"{len(self.shards):05d}.bin").open("wb")
            part, values = values[: self._limit - self._filled], values[self._limit - self._filled :]
            data = part.astype(self._kind, copy=False).tobytes()
            self._stream.write(data)
            self._digest.update(data)
            self._filled += len(part)
            if self._filled == self._limit:
                self._close()

    def _close(self) -> None:
        if self._stream is None:
            return
        self._stream.close()
        self.shards.append(Shard(f"{len(self.shards):05d}.bin", self._filled, self._digest.hexdigest()))
        self._stream, self._digest, self._filled = None, sha256(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def blocks(path: Path, dtype: str) -> Iterator[np.ndarray]:
    """Token ids of a file, a bounded number at a time."""
    kind = np.dtype(dtype).newbyteorder("<")
    with path.open("rb") as stream:
        while data := stream.read(COPY_TOKENS * kind.itemsize):
            yield np.frombuffer(data, dtype=kind)


def write_index(folder: Path, index: Index) -> None:
    write_json(folder / "index.json", index.to_json())


def verify(folder: Path) -> Index:
    """Reads every shard against its sha256 and size. Raises DataError (65), naming the file."""
    index = Index.read(folder)
    width = np.dtype(index.dtype).itemsize
    for shard in index.shards:
        path = folder / shard.file
        try:
            with path.open("rb") as stream:
                found = file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise MissingInputError(f"{path}: not there, but index.json lists it; make the shards again") from error
        if path.stat().st_size != shard.tokens * width or found != shard.sha256:
            raise DataError(
                f"{path}: found sha256 {found} over {path.stat().st_size} bytes, expected {shard.sha256} over "
                f"{shard.tokens * width}; remove the folder so that it is prepared again"
            )
    return index
