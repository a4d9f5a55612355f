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

MOST_EXPANSION = 250
"""How many times its size a compressed file may expand to, beyond `FREE_BYTES`. Text reaches 20, logs 100."""
FREE_BYTES = 64 << 20
LONGEST_LINE = 256 << 20
"""Bytes of one line, its end included: a line is held in memory."""

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


class Bomb(Exception):
    """A compressed file that expands beyond `MOST_EXPANSION`."""

    def __init__(self, expanded: int, stored: int) -> None:
        super().__init__(
            f"{expanded:,} bytes came out of {stored:,}, expected at most {MOST_EXPANSION} times as many; if this is "
            "text, store it uncompressed"
        )


def check_expansion(expanded: int, stored: int) -> None:
    """Raises Bomb when that many bytes are too many out of so few."""
    if expanded > FREE_BYTES and expanded > MOST_EXPANSION * stored:
        raise Bomb(expanded, stored)


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
        self.read_so_far = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self.read_so_far += len(data)
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
            # All that comes out of one piece is made at once, and 4 KiB can hold 128 MiB.
            data = self._rest or self._stream.read(1 << 12)
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


class _Bounded(io.RawIOBase):
    """What comes out of a compressed file, as long as that is not too much."""

    def __init__(self, stream: Any, stored: _Counted) -> None:
        self._stream, self._stored = stream, stored
        self._expanded = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size: int = self._stream.readinto(buffer)
        self._expanded += size
        check_expansion(self._expanded, self._stored.read_so_far)
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def opened(path: Path, advance: Advance) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed by its suffix (.gz, .zst). Reading raises Bomb where they are too many."""
    stored = _Counted(path.open("rb", buffering=0), advance)
    raw: Any = io.BufferedReader(stored, 1 << 18)
    stream: Any = raw
    if path.suffix == ".gz":
        stream = io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=raw), stored), 1 << 18)
    elif path.suffix == ".zst":
        stream = io.BufferedReader(_Bounded(_Zstandard(raw), stored), 1 << 18)
    with raw, stream:
        yield stream


def lines_of(stream: io.BufferedReader) -> Iterator[bytes]:
    """The lines of a file with their ends. Raises BrokenFile for one longer than `LONGEST_LINE`."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise BrokenFile(f"line {number}: more than {LONGEST_LINE:,} bytes without an end, expected one document")
        yield line


def decompression_errors() -> tuple[type[Exception], ...]:
    """What a damaged or hostile .gz or .zst raises; asked for only when something was raised."""
    import zstandard

    return (Bomb, EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
