"""What readers share: the document, the broken document, and files that may be compressed."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Advance = Callable[[int], None]
"""Told how many more bytes of the stored (compressed) input were read."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document. `group` is its origin where `groupField` asks for one; label and date belong to evaluation sets;
    `score` is its quality where `scoreField` asks for one."""

    text: str
    group: str | None = None
    label: str | None = None
    date: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """One line or document that could not be read; `line` counts from 1 (rows in Parquet)."""

    line: int
    reason: str


class BrokenFile(Exception):
    """The rest of the file is lost. The message says where and why; the caller knows the file's name."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields to read from each record; empty names are not asked for."""

    text: str = "text"
    group: str = ""
    label: str = ""
    date: str = ""
    score: str = ""

    def asked(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.text, self.group, self.label, self.date, self.score) if name))

    def document(self, record: dict[str, Any], line: int) -> Document | Broken:
        """Takes the document out of a record, or says what is wrong with it."""
        if self.text not in record:
            return Broken(line, f"no field {self.text!r}; the record has {shown(record)}")
        text = record[self.text]
        if not isinstance(text, str):
            return Broken(line, f"field {self.text!r} is {type(text).__name__}, expected a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return Broken(line, f"field {self.text!r} holds half a surrogate pair at character {error.start}")
        score = record.get(self.score) if self.score else None
        if self.score and not is_score(score):
            return Broken(line, f"field {self.score!r} is {score!r:.40}, expected a finite number as its score")
        others = (as_text(record.get(name)) if name else None for name in self._others())
        return Document(text, *others, score=None if score is None else float(score))

    def _others(self) -> tuple[str, str, str]:
        return self.group, self.label, self.date


def is_score(value: Any) -> bool:
    """Whether a document can be ordered by this value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_text(value: Any) -> str | None:
    """A group, label or date as text: numbers and dates by their own spelling, null as absent."""
    return None if value is None else str(value).encode(errors="replace").decode()


def shown(record: dict[str, Any]) -> str:
    names = ", ".join(repr(name) for name in list(record)[:8])
    return (names or "none") + (", ..." if len(record) > 8 else "")


class _Counted(io.RawIOBase):
    """A file that tells how far it was read."""

    def __init__(self, stream: IO[bytes], advance: Advance) -> None:
        self._stream, self._advance = stream, advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._advance(len(data))
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Zstandard(io.RawIOBase):
    """Zstandard frames one after another. Unlike `stream_reader` it notices a file that ends inside a frame."""

    def __init__(self, stream: IO[bytes]) -> None:
        import zstandard

        self._stream = stream
        self._fresh = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._fresh()
        self._inside, self._ready, self._rest = False, memoryview(b""), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._rest or self._stream.read(1 << 18)
            self._rest = b""
            if not data:
                if self._inside:
                    raise EOFError("the file ends inside a Zstandard frame")
                return 0
            self._ready, self._inside = memoryview(self._frame.decompress(data)), True
            if self._frame.eof:
                self._rest, self._frame, self._inside = self._frame.unused_data, self._fresh(), False
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def opened(path: Path, advance: Advance) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed by its suffix (.gz, .zst)."""
    raw: Any = io.BufferedReader(_Counted(path.open("rb", buffering=0), advance), 1 << 18)
    stream: Any = raw
    if path.suffix == ".gz":
        stream = io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 18)
    elif path.suffix == ".zst":
        stream = io.BufferedReader(_Zstandard(raw), 1 << 18)
    with raw, stream:
        yield stream


def decompression_errors() -> tuple[type[Exception], ...]:
    """What a damaged .gz or .zst raises; asked for only when something was raised."""
    import zstandard

    return (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
